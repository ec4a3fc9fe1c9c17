"""A record and its image file in, pixels or one clear error out: nothing is ever resized here. Contract ids: ENC-*.

The size gates run on the record alone, so that lengths and prompts are known, and refused, without opening a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.data.errors import Finding, RecordProblem
from coordexp.data.image_sizes import size_finding
from coordexp.data.pictures import PictureError, read_picture
from coordexp.encode.processor import SIZE_MULTIPLE
from coordexp.encode.swift_template import upstream_size

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from coordexp.data.types import Record


class ImageContractError(ValueError):
    """An image that would have to be resized, or is not the one its record describes."""


def check_image_size(record: Record, max_pixels: int | None) -> Record:
    """Return `record` if it has one image of a size that the processor takes as it is and that is within `max_pixels`.

    Also raises when ms-swift's image loading would resize it.
    """
    if len(record.images) != 1:
        raise ImageContractError(
            f"{record.source}: {len(record.images)} images; width and height describe one, so write one image a record"
        )
    finding = image_size_finding(record, max_pixels)
    if finding is not None:
        raise ImageContractError(str(RecordProblem(record.source, finding)))
    return record


def image_size_finding(record: Record, max_pixels: int | None) -> Finding | None:
    """What is wrong with the size of a record's image, by the rule of records and by ms-swift as it stands here."""
    size = (record.width, record.height)
    finding = size_finding(record.images[0], size, max_pixels)
    if finding is not None:
        return finding
    upstream = upstream_size(*size)
    if upstream == size:
        return None
    message = f"{record.images[0]} is {size[0]}x{size[1]}, which ms-swift would resize to {upstream[0]}x{upstream[1]}: "
    message += "the variables IMAGE_MIN_TOKEN_NUM and IMAGE_MAX_TOKEN_NUM bound it"
    return Finding("image_upstream", "images[0]", message, "Unset them: nothing is resized at train or infer time.")


def read_image(record: Record, path: Path) -> Image.Image:
    """The record's image as RGB; raises when the file cannot be read or is not of the size the record says."""
    try:
        return read_picture(path, (record.width, record.height)).image
    except PictureError as error:
        raise ImageContractError(f"{record.source}: {error}") from error


def count_image_tokens(record: Record) -> int:
    """Placeholders the image takes in the sequence: one per 32 x 32 pixels."""
    return (record.width // SIZE_MULTIPLE) * (record.height // SIZE_MULTIPLE)
