"""Writes a gallery: gallery.html, sheets/*.png, pictures/*.jpg. Contract ids: EVAL-079, EVAL-081, EVAL-082.

In: the sources of what a run left, and how many of each are wanted. Out: the folder with the pictures, then the page
over them, and what was left out. A picture that cannot be drawn is named, and costs nothing else.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from coordexp.artifacts.evaluation_files import PICTURE_FAULTS
from coordexp.artifacts.files import write_bytes
from coordexp.artifacts.folders import FolderError
from coordexp.artifacts.gallery_page import PAGE_NAME, Entry, Page, Part, write_page
from coordexp.data.pictures import PictureError, read_picture
from coordexp.evaluation.gallery import GalleryItem, draw_picture, render_gallery
from coordexp.evaluation.report import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

    from coordexp.artifacts.gallery_sources import Order, Shown, Source
    from coordexp.rollout.types import Progress

SHEETS, PICTURES = "sheets", "pictures"
SHEET_IMAGES = 16
_SIDE = 640
_NAMES = {SHEETS: re.compile(r"\d{2,}-[a-z]+-\d{2,}\.png"), PICTURES: re.compile(r"\d{2,}-[a-z]+-\d{4,}\.jpg")}
_TITLE_NAME = 48


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to draw of each source: `limit` answers at most, in this order."""

    order: Order = "worst"
    limit: int = 64


@dataclass
class _Writer:
    """The pictures of one gallery; those of an earlier one go when the first is written."""

    folder: Path
    begun: bool = field(default=False)

    def write(self, name: str, picture: Image.Image) -> None:
        content = io.BytesIO()
        if name.endswith(".png"):
            picture.save(content, "PNG")
        else:
            picture.save(content, "JPEG", quality=90, subsampling=0)
        if not self.begun:
            _clear(self.folder)
            self.begun = True
        write_bytes(self.folder / name, content.getvalue(), durable=False)


def write_gallery(
    folder: Path, place: Path, sources: tuple[Source, ...], wanted: Wanted, progress: Progress | None = None
) -> Page:
    """Draw the sources, which were found in `place`, into `folder`; what stands on the page.

    Raises `EvaluationError` when nothing of them can be drawn, `FolderError` when the folder can't be written into.
    """
    if wanted.limit < 1:
        raise EvaluationError(f"--limit: {wanted.limit} answers of a source are none; write 1 or more")
    writer, parts, entries = _Writer(folder), list[Part](), list[Entry]()
    chosen = [source.choose(wanted.order, wanted.limit) for source in sources]
    total, done = sum(map(len, chosen)), 0
    try:
        for number, (source, answers) in enumerate(zip(sources, chosen, strict=True), 1):
            part = Part(f"{number:02}-{source.kind}", _name(source.path, place), source, len(answers))
            parts.append(part)
            for batch in range(0, len(answers), SHEET_IMAGES):
                entries += _draw_sheet(writer, part, answers[batch : batch + SHEET_IMAGES], wanted.order)
                done += len(answers[batch : batch + SHEET_IMAGES])
                if progress is not None:
                    progress(done, total)
        page = Page(str(place), wanted.order, wanted.limit, tuple(parts), tuple(entries))
        if not entries:
            raise EvaluationError(_undrawable(page))
        write_page(folder, page)
    except OSError as error:
        raise FolderError(f"{folder}: cannot be written into ({error.strerror}); write another path") from error
    return page


def _draw_sheet(writer: _Writer, part: Part, answers: tuple[Shown, ...], order: Order) -> Iterator[Entry]:
    """The pictures of up to `SHEET_IMAGES` answers, each alone and all on one sheet."""
    drawn: list[tuple[Shown, GalleryItem]] = []
    for answer in answers:
        try:
            item = _item(part.source, answer)
            alone = draw_picture(item, _SIDE)
            # On a sheet it must not cost the others.
            render_gallery([item])
        except PICTURE_FAULTS as error:
            part.left_out.append(_why(answer, error))
            continue
        name = f"{PICTURES}/{part.key}-{part.drawn + len(drawn) + 1:04}.jpg"
        writer.write(name, alone)
        drawn.append((answer, item))
        yield Entry(answer, name, part)
    if drawn:
        first, last = part.drawn + 1, part.drawn + len(drawn)
        part.drawn = last
        words = "worst first" if order == "worst" else "as in the files"
        title = f"{part.name[-_TITLE_NAME:]} · {part.source.kind} · {words} · {first} to {last}"
        sheet = f"{SHEETS}/{part.key}-{len(part.sheets) + 1:02}.png"
        writer.write(sheet, render_gallery([item for _, item in drawn], title=title))
        part.sheets.append(sheet)


def _item(source: Source, answer: Shown) -> GalleryItem:
    """Raises one of `PICTURE_FAULTS`, among them `PictureError`, where there is no picture to draw on."""
    if source.unknown is not None and not answer.image.is_absolute():
        raise EvaluationError(source.unknown)
    picture = read_picture(answer.image, (answer.truth.width, answer.truth.height)).image
    return GalleryItem(picture, answer.truth, answer.prediction, _caption(answer), answer.judgement)


def _caption(answer: Shown) -> str:
    sample = "" if answer.sample is None else f" · sample {answer.sample}"
    step = "" if answer.step is None else f" · step {answer.step}"
    return f"{PurePath(answer.truth.sample_id).name}{sample}{step}"


def _why(answer: Shown, error: BaseException) -> str:
    where = "" if answer.image.is_absolute() or not isinstance(error, PictureError) else " (from the current folder)"
    named = (
        str(error) if isinstance(error, PictureError | EvaluationError) else f"{answer.image} cannot be drawn: {error}"
    )
    return f"{answer.place}: {named}{where}"


def _undrawable(page: Page) -> str:
    reasons = [why for part in page.parts for why in part.left_out]
    more = f"; so it is with all {len(reasons)} that were to be drawn" if len(reasons) > 1 else ""
    return f"{page.place}: no picture can be drawn: {reasons[0]}{more}"


def _name(path: Path, place: Path) -> str:
    return os.path.basename(os.path.abspath(path)) if path == place else str(path.relative_to(place))


def _clear(folder: Path) -> None:
    """Remove what an earlier gallery wrote; anything else stays."""
    (folder / PAGE_NAME).unlink(missing_ok=True)
    for below, names in _NAMES.items():
        for path in (folder / below).glob("*"):
            if names.fullmatch(path.name):
                path.unlink()
