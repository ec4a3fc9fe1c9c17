"""COCO results, typed: what any detector found in the images of an annotation file. Contract ids: DATA-040, EVAL-089.

Enters: the text of a JSON list of {image_id, category_id, bbox, score}. Leaves: `CocoResult`s in the file's order; a
malformed one raises with its place in the list. Other keys (id, area, segmentation, …) are let through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordexp.data.annotation_text import decode_typed
from coordexp.data.coco import Identifier
from coordexp.data.coco_rules import PIXEL_LIMIT, RESULTS_FORM, results_error
from coordexp.data.errors import DataError

if TYPE_CHECKING:
    from coordexp.data.annotation_text import JsonText


class CocoResult(msgspec.Struct, frozen=True):
    """A box, x, y, width and height in pixels of its image, and how sure its detector was, on any scale."""

    image_id: Identifier
    category_id: Identifier
    bbox: tuple[float, float, float, float]
    score: float


def parse_results(text: JsonText) -> list[CocoResult]:
    """The results of a file; none is a legitimate outcome. Raises `DataError` with the first fault's place."""
    return decode_typed(text, list[CocoResult], lambda results: all(map(_is_sound, results)), results_error)


def check_no_annotations(content: bytes, source: str) -> None:
    """Raise `DataError` for a file of annotations, the likeliest other file to be named in the place of results."""
    try:
        payload = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return
    if isinstance(payload, dict) and "annotations" in payload:
        raise DataError(
            f"{source}: they are COCO annotations, what to compare with (--annotations), not {RESULTS_FORM}. "
            "Give the list of results itself"
        )


def _is_sound(result: CocoResult) -> bool:
    _, _, width, height = result.bbox
    ids = (result.image_id, result.category_id)
    return (
        all(not isinstance(value, float) or value.is_integer() for value in ids)
        and min(width, height) >= 0
        and max(map(abs, result.bbox)) <= PIXEL_LIMIT
    )
