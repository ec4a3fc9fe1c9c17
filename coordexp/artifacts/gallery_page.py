"""The page over a gallery's pictures: gallery.html, one file that asks no network. Contract ids: EVAL-079, EVAL-082.

In: which answers were drawn where, and what was left out. Out: the page; its pictures lie beside it and are named by
relative paths. Any text is escaped: a model may have written it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import jinja2

from coordexp.artifacts.comparison_summary import render_number
from coordexp.artifacts.files import write_text
from coordexp.artifacts.gallery_sources import MEANINGS
from coordexp.evaluation import gallery
from coordexp.evaluation.plain_text import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordexp.artifacts.gallery_sources import Order, Shown, Source

PAGE_NAME = "gallery.html"
_TEMPLATES = Path(__file__).parent / "templates"
_TEXT_LETTERS = 8000
_DESC_LETTERS = 200
_NAMED = 5
_LEGEND = (
    ("solid", gallery.CLOSE, f"matched prediction, IoU {gallery.CLOSE_IOU} or more"),
    ("solid", gallery.LOOSE, "matched prediction, less than that"),
    ("solid", gallery.WRONG, "wrong prediction (FP)"),
    ("solid", gallery.IGNORED, "prediction that counts neither way"),
    ("dashed", gallery.FOUND, "ground truth that was found"),
    ("dashed", gallery.MISSED, "ground truth that was missed (FN)"),
    ("hatched", gallery.IGNORED, "region that evaluations do not score"),
)


@dataclass(eq=False)
class Part:
    """What became of a source: how many answers were `asked` for, `drawn`, and `left_out` (why); and its sheets."""

    key: str
    name: str
    source: Source
    asked: int
    drawn: int = 0
    left_out: list[str] = field(default_factory=list)
    sheets: list[str] = field(default_factory=list)

    @property
    def beyond(self) -> int:
        """Answers that the limit left out."""
        return len(self.source.answers) - self.asked


@dataclass(frozen=True, eq=False)
class Entry:
    """An answer and the picture of it, by its name from the gallery's folder."""

    answer: Shown
    picture: str
    part: Part


@dataclass(frozen=True, eq=False)
class Page:
    """A gallery of what was found in `place`."""

    place: str
    order: Order
    limit: int
    parts: tuple[Part, ...]
    entries: tuple[Entry, ...]

    @property
    def ranked(self) -> tuple[Entry, ...]:
        """The entries, worst first."""
        return tuple(sorted(self.entries, key=lambda entry: entry.answer.badness))


def write_page(folder: Path, page: Page) -> Path:
    """Write gallery.html into `folder`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": render_number, "plain": plain, "rgb": _rgb}
    ranks = {entry: rank for rank, entry in enumerate(page.ranked)}
    filed = (answer for part in page.parts for answer in part.source.answers)
    places = {answer: place for place, answer in enumerate(filed)}
    rows = [_row(entry, places[entry.answer], ranks[entry]) for entry in page.entries]
    rows.sort(key=lambda row: row["rank" if page.order == "worst" else "place"])
    text = environment.get_template(f"{PAGE_NAME}.jinja").render(
        page=page,
        rows=rows,
        legend=_LEGEND,
        meanings={kind: words for kind, words in MEANINGS.items() if any(p.source.kind == kind for p in page.parts)},
        steps=sorted({entry.answer.step for entry in page.entries if entry.answer.step is not None}),
    )
    return write_text(folder / PAGE_NAME, text)


def _rgb(color: gallery.Color) -> str:
    return f"rgb({color[0]}, {color[1]}, {color[2]})"


def _row(entry: Entry, place: int, rank: int) -> dict[str, Any]:
    answer = entry.answer
    objects = list(_objects(answer))
    shown = plain(answer.text, _TEXT_LETTERS)
    return {
        "place": place,
        "rank": rank,
        "part": entry.part,
        "picture": entry.picture,
        "answer": answer,
        "name": PurePath(answer.truth.sample_id).name,
        "counts": answer.counts,
        "objects": objects,
        "descs": "\n".join(dict.fromkeys(one["desc"].lower() for one in objects)),
        "text": shown,
        "cut": max(answer.letters, len(answer.text)) > min(len(answer.text), _TEXT_LETTERS),
    }


def _objects(answer: Shown) -> Iterator[dict[str, Any]]:
    """Predictions in the order written, then what was missed, then what of the answer was dropped."""
    truth = answer.truth.objects
    matches = {match.prediction: match for match in answer.judgement.matches}
    for number, found in enumerate(answer.prediction.detections):
        desc, note = _short(found.desc), ""
        if number in matches:
            close = matches[number].iou >= gallery.CLOSE_IOU
            status, color = "matched", gallery.CLOSE if close else gallery.LOOSE
            other = _short(truth[matches[number].truth].desc)
            note = f"IoU {matches[number].iou:.2f}" + (f", annotated as {other}" if other != desc else "")
        elif number in answer.judgement.ignored:
            status, color = "not scored", gallery.IGNORED
        else:
            status, color = "wrong", gallery.WRONG
        yield {"desc": desc, "status": status, "color": color, "note": note}
    seen = {match.truth for match in answer.judgement.matches}
    for number, obj in enumerate(truth):
        if number not in seen:
            yield {"desc": _short(obj.desc), "status": "missed", "color": gallery.MISSED, "note": ""}
    for drop in answer.prediction.parse.dropped:
        yield {
            "desc": _short(drop.excerpt),
            "status": "dropped",
            "color": gallery.WRONG,
            "note": f"{drop.reason}, not drawn",
        }


def _short(text: str) -> str:
    return plain(text, _DESC_LETTERS)


def render_lines(page: Page) -> Iterator[str]:
    """What a terminal shows: a line for each source, and the first of the answers without a picture by name."""
    for part in page.parts:
        count = f"{part.drawn} of {len(part.source.answers)} drawn"
        beyond = f", {part.beyond} left out by --limit {page.limit}" if part.beyond else ""
        without = f", {len(part.left_out)} without a picture" if part.left_out else ""
        yield plain(f"{part.name} ({part.source.kind}): {count}{beyond}{without}")
        for why in part.left_out[:_NAMED]:
            yield plain(f"  {why}")
        if len(part.left_out) > _NAMED:
            yield f"  and {len(part.left_out) - _NAMED} more; the page names all"
