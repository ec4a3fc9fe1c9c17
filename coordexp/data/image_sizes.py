"""Width and height of a record in, what is wrong with them for the processor out. Contract ids: DATA-060.

The one home of the rule's words: `check_data`, the dry run, training, evaluation and rollouts all speak them.
"""

from __future__ import annotations

from functools import lru_cache

from coordexp.data.errors import Finding
from coordexp.data.pictures import COOK
from coordexp.geometry.resize import (
    MAX_ASPECT,
    MAX_IMAGE_TOKENS,
    MIN_IMAGE_TOKENS,
    SIZE_MULTIPLE,
    fits_processor,
    within_aspect,
)

_OFFLINE = "Nothing is resized at train or infer time: cook it offline with"


def size_finding(image: str, size: tuple[int, int], max_pixels: int | None = None) -> Finding | None:
    """The rule that an image of this path, width and height breaks; None where training takes it as it is."""
    fault = _size_fault(size, max_pixels)
    if fault is None:
        return None
    rule, message, remedy = fault
    return Finding(rule, "images[0]", f"{image} is {size[0]}x{size[1]}{message}", remedy)


@lru_cache(4096)
def _size_fault(size: tuple[int, int], max_pixels: int | None) -> tuple[str, str, str] | None:
    """Rule, message and remedy. Files hold few sizes, and each is judged once."""
    width, height = size
    pixels = width * height
    if not within_aspect(width, height):
        message = f", and the processor takes no image whose longer side is more than {MAX_ASPECT} times the shorter"
        return "image_aspect", message, "Cut the image into pieces, or leave it out; cooking drops it."
    if width % SIZE_MULTIPLE or height % SIZE_MULTIPLE:
        message = f"; both sides must be multiples of {SIZE_MULTIPLE} pixels"
        return "image_multiple", message, f"{_OFFLINE} `{COOK}`."
    if not fits_processor(width, height):
        least, most = (tokens * SIZE_MULTIPLE**2 for tokens in (MIN_IMAGE_TOKENS, MAX_IMAGE_TOKENS))
        message = f" = {pixels} pixels, which ms-swift would resize: the processor takes {least} to {most}"
        return "image_area", message, f"{_OFFLINE} `{COOK}`."
    if max_pixels is not None and pixels > max_pixels:
        message = f" = {pixels} pixels, above template.max_pixels = {max_pixels}"
        return "image_max_pixels", message, f"{_OFFLINE} `{COOK} --max-pixels {max_pixels}`, or raise the key."
    return None
