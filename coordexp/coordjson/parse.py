"""Answer text in, objects or strict JSON out: the one place where assistant text becomes data.

Contract ids: TEXT-006, TEXT-007, TEXT-008.

`scan`, `faults` and this module are the boundary: nothing else may give assistant text to a JSON reader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.coordjson.scan import box_start, match_answer, read_object, scan_answer
from coordexp.coordjson.types import CoordJSONError

if TYPE_CHECKING:
    from coordexp.coords.types import CoordObject


def parse_answer(text: str) -> tuple[CoordObject, ...]:
    """The objects of a complete answer, in the order written.

    Strict: nothing is repaired. Raises `CoordJSONError` for text outside the grammar and for a bbox_2d with x1 > x2
    or y1 > y2.
    """
    _, found, _ = match_answer(text)
    objects = []
    for match, layout in found:
        item = read_object(match, layout)
        if item.kind == "bbox_2d":
            x1, y1, x2, y2 = item.bins
            if x1 > x2 or y1 > y2:
                raise CoordJSONError(text, box_start(match, layout), "a box with x1 <= x2, y1 <= y2", "bbox_invalid")
        objects.append(item)
    return tuple(objects)


def transpile(text: str) -> str:
    """The same answer as strict JSON: each coord token of a geometry becomes its integer, all other characters stay.

    A coord token spelled inside a desc is text and stays. Raises `CoordJSONError` for text outside the grammar.
    """
    pieces: list[str] = []
    done = 0
    for item in scan_answer(text).objects:
        for (start, end), value in zip(item.coord_spans, item.bins, strict=True):
            pieces += (text[done:start], str(value))
            done = end
    return "".join(pieces) + text[done:]
