"""Images for cooking: opened, size-checked, resized once, written as bytes that depend on the input alone.

Contract ids: DATA-010, DATA-034.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING

from PIL import Image

from coordexp.data.errors import DataError
from coordexp.data.pictures import UNDECIDED, ExifPolicy, PictureError, read_picture

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

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
    exif: ExifPolicy | None = None


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """An image that was `written`, with all that was done to it (`adjustments`, of `cooking_types.ADJUSTMENTS`).

    Or one that was not: `reason` is one of `cooking_types.RECORD_DROPS` or `pictures.UNDECIDED`, `message` names the
    file and says what is wrong and what to do.
    """

    written: Path | None = None
    adjustments: tuple[str, ...] = ()
    reason: str | None = None
    message: str = ""


def cook_images(jobs: Sequence[ImageJob], workers: int) -> Iterator[ImageOutcome]:
    """Outcomes in the order of the jobs, whatever the number of workers.

    Raises `DataError` at the first image whose EXIF orientation nothing decides.
    """
    if workers == 1:
        yield from map(_check_decided, map(cook_image, jobs))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from map(_check_decided, pool.map(cook_image, jobs, chunksize=32))


def _check_decided(outcome: ImageOutcome) -> ImageOutcome:
    if outcome.reason == UNDECIDED:
        raise DataError(outcome.message)
    return outcome


def cook_image(job: ImageJob) -> ImageOutcome:
    """Write the cooked image, or say why there is none.

    PNG and JPEG files of the right size that are plain RGB are copied byte for byte; everything else becomes a PNG.
    """
    try:
        picture = read_picture(job.source, job.annotated, job.exif)
    except PictureError as error:
        return ImageOutcome(reason=error.reason, message=str(error))
    job.stem.parent.mkdir(parents=True, exist_ok=True)
    resized = job.cooked != job.annotated
    if picture.plain and not resized and picture.format in COPIED_FORMATS:
        target = job.stem.with_name(job.stem.name + COPIED_FORMATS[picture.format])
        shutil.copyfile(job.source, target)
        return ImageOutcome(target, ("image_copied",))
    target = job.stem.with_name(job.stem.name + ".png")
    resize_image(picture.image, job.cooked).save(target, format="PNG", compress_level=1)
    return ImageOutcome(target, ("image_resized" if resized else "image_reencoded", *picture.adjustments))


def resize_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at the size it is cooked to; as it is where it has that size."""
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
