"""Images for cooking: opened, size-checked, resized once, written as bytes that depend on the input alone.

Contract ids: DATA-010.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Literal

from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

EXIF_ORIENTATION = 274
COPIED_FORMATS = {"PNG": ".png", "JPEG": ".jpg"}


@dataclass(frozen=True, slots=True)
class ImageJob:
    """One image to cook: where it lies, the size its annotations assume, and where it goes (without suffix).

    `exif` is the policy for an EXIF orientation that the annotated size does not decide.
    """

    source: Path
    annotated: tuple[int, int]
    cooked: tuple[int, int]
    stem: Path
    exif: Literal["apply", "ignore"] | None = None


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """An image that was `written`, with all that was done to it (`adjustments`, of `cooking_types.ADJUSTMENTS`).

    Or one that was dropped: `reason` is one of `cooking_types.RECORD_DROPS`, `message` names the file and says more.
    """

    written: Path | None = None
    adjustments: tuple[str, ...] = ()
    reason: str | None = None
    message: str = ""


def cook_images(jobs: Sequence[ImageJob], workers: int) -> Iterator[ImageOutcome]:
    """Outcomes in the order of the jobs, whatever the number of workers."""
    if workers == 1:
        yield from map(cook_image, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(cook_image, jobs, chunksize=32)


def cook_image(job: ImageJob) -> ImageOutcome:
    """Write the cooked image, or say why there is none.

    PNG and upright RGB JPEG files of the right size are copied byte for byte; everything else becomes a PNG.
    """
    if not job.source.is_file():
        return ImageOutcome(reason="missing_image", message=f"{job.source} does not exist")
    picture = _load(job.source)
    if picture is None:
        return ImageOutcome(reason="unreadable_image", message=f"{job.source} cannot be decoded")
    if picture.size != job.annotated:
        return ImageOutcome(reason="size_mismatch", message=f"{job.source} is {picture.size}, not {job.annotated}")
    job.stem.parent.mkdir(parents=True, exist_ok=True)
    return _write(picture, job)


def _load(source: Path) -> Image.Image | None:
    """The decoded picture with its format; None when it cannot be decoded (PIL's error depends on the format)."""
    try:
        picture = Image.open(source)
        picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return picture


def _write(picture: Image.Image, job: ImageJob) -> ImageOutcome:
    upright = picture.getexif().get(EXIF_ORIENTATION, 1) == 1
    if job.cooked == job.annotated and picture.mode == "RGB" and upright and picture.format in COPIED_FORMATS:
        target = job.stem.with_name(job.stem.name + COPIED_FORMATS[str(picture.format)])
        shutil.copyfile(job.source, target)
        return ImageOutcome(target, ("image_copied",))
    target = job.stem.with_name(job.stem.name + ".png")
    resized = job.cooked != job.annotated
    flat = _as_rgb(picture)
    if resized:
        flat = flat.resize(job.cooked, Image.Resampling.BICUBIC)
    flat.save(target, format="PNG", compress_level=1)
    return ImageOutcome(target, ("image_resized" if resized else "image_reencoded",))


def _as_rgb(picture: Image.Image) -> Image.Image:
    """RGB on white: transparent pixels have no colour of their own."""
    if "A" in picture.getbands() or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        ground = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, layered).convert("RGB")
    return Image.frombytes("RGB", picture.size, picture.convert("RGB").tobytes())
