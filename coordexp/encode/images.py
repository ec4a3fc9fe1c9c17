"""A record and its image file in, pixels or one clear error out: nothing is ever resized here. Contract ids: ENC-*.

The size gates run on the record alone, so that lengths and prompts are known, and refused, without opening a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.data.pictures import COOK, PictureError, read_picture
from coordexp.encode.processor import SIZE_MULTIPLE
from coordexp.encode.swift_template import upstream_size

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from coordexp.data.types import Record


class ImageContractError(ValueError):
    """An image that would have to be resized, or is not the one its record describes."""


def check_image_size(record: Record, max_pixels: int | None) -> Record:
    """Return `record` if it has one image, sides in multiples of 32 pixels and an area within `max_pixels`.

    Also raises when ms-swift's image loading would resize it (very small, very large or very long images).
    """
    width, height = record.width, record.height
    if len(record.images) != 1:
        raise ImageContractError(
            f"{record.source}: {len(record.images)} images; width and height describe one, so write one image a record"
        )
    found = f"{record.source}: {record.images[0]} is {width}x{height}"
    if max_pixels is not None and width * height > max_pixels:
        raise ImageContractError(
            f"{found} = {width * height} pixels, above template.max_pixels = {max_pixels}. Nothing is resized at train "
            f"or infer time: cook it offline with `{COOK} --max-pixels {max_pixels}`"
        )
    if width % SIZE_MULTIPLE or height % SIZE_MULTIPLE:
        raise ImageContractError(
            f"{found}; both sides must be multiples of {SIZE_MULTIPLE} pixels. Cook it offline with `{COOK}`"
        )
    upstream = upstream_size(width, height)
    if upstream != (width, height):
        raise ImageContractError(
            f"{found}, which ms-swift would resize to {upstream[0]}x{upstream[1]} (IMAGE_MIN_TOKEN_NUM and "
            f"IMAGE_MAX_TOKEN_NUM bound it). Cook it offline with `{COOK}`"
        )
    return record


def read_image(record: Record, path: Path) -> Image.Image:
    """The record's image as RGB; raises when the file cannot be read or is not of the size the record says."""
    try:
        return read_picture(path, (record.width, record.height)).image
    except PictureError as error:
        raise ImageContractError(f"{record.source}: {error}") from error


def count_image_tokens(record: Record) -> int:
    """Placeholders the image takes in the sequence: one per 32 x 32 pixels."""
    return (record.width // SIZE_MULTIPLE) * (record.height // SIZE_MULTIPLE)
