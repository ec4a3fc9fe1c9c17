"""Objects in, the canonical answer text out (without `<|im_end|>`). Contract ids: TEXT-001, TEXT-002.

`{"objects": [{"desc": "black cat", "bbox_2d": [<|coord_110|>, <|coord_310|>, <|coord_410|>, <|coord_705|>]}]}`
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from coordexp.coords.codec import render_coord_token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordexp.coords.types import CoordObject

FieldOrder = Literal["desc_first", "geometry_first"]
FIELD_ORDERS: tuple[FieldOrder, ...] = ("desc_first", "geometry_first")
OPENING = '{"objects": ['
SEPARATOR = ", "
CLOSURE = "]}"


def render_object(item: CoordObject, field_order: FieldOrder = "desc_first") -> str:
    """One object's text. The desc is escaped as JSON, non-ASCII kept; bins keep their order.

    Raises `ValueError` for an unknown field order or a bin outside 0..999.
    """
    desc = f'"desc": {json.dumps(item.desc, ensure_ascii=False)}'
    geometry = f'"{item.kind}": [{SEPARATOR.join(map(render_coord_token, item.bins))}]'
    if field_order == "desc_first":
        return f"{{{desc}{SEPARATOR}{geometry}}}"
    if field_order == "geometry_first":
        return f"{{{geometry}{SEPARATOR}{desc}}}"
    raise ValueError(f"object_field_order is one of {', '.join(FIELD_ORDERS)}; got {field_order!r}")


def render_answer(objects: Iterable[CoordObject], field_order: FieldOrder = "desc_first") -> str:
    """The whole answer: objects in the order given, which is never changed."""
    return OPENING + SEPARATOR.join(render_object(item, field_order) for item in objects) + CLOSURE
