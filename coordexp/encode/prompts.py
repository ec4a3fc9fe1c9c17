"""The question put to the model, worded after the field order and the object ordering. Contract ids: ENC-*.

In: the two orders of the config and a variant's name. Out: the user's text and, for some variants, a system text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordexp.coordjson.render import FieldOrder

Ordering = Literal["sorted", "random"]
Variant = Literal["default", "coco_80"]

_COCO_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking
meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie,
suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis
racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot
dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush
"""
COCO_80 = tuple(" ".join(name.split()) for name in _COCO_NAMES.split(","))

_FIELDS: dict[FieldOrder, str] = {
    "desc_first": "desc, then geometry",
    "geometry_first": "geometry, then desc",
}
_ORDERINGS: dict[Ordering, str] = {
    "sorted": "top to bottom, then left to right",
    "random": "in any order",
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """`user` follows the image; `system` is None where the variant has none."""

    user: str
    system: str | None = None


def _default(fields: str, ordering: str) -> Prompt:
    return Prompt(f"List the objects as JSON: {fields}; {ordering}.")


def _coco_80(fields: str, ordering: str) -> Prompt:
    system = (
        'You detect objects. Answer with {"objects": [...]} and nothing else. Each object has a desc and one geometry: '
        "bbox_2d as [x1, y1, x2, y2] or poly as [x1, y1, x2, y2, x3, y3, ...], numbers as coord tokens from 0 to 999. "
        f"The desc is one of: {', '.join(COCO_80)}."
    )
    return Prompt(f"List every object of these classes: {fields}; {ordering}.", system)


_VARIANTS: dict[Variant, Callable[[str, str], Prompt]] = {"default": _default, "coco_80": _coco_80}
ORDERINGS = tuple(_ORDERINGS)
VARIANTS = tuple(_VARIANTS)


def render_prompt(field_order: FieldOrder, ordering: Ordering, variant: Variant = "default") -> Prompt:
    """The prompt of one variant; raises `ValueError` naming what is allowed for an unknown order or variant."""
    for name, value, allowed in (
        ("object_field_order", field_order, _FIELDS),
        ("object_ordering", ordering, _ORDERINGS),
        ("prompt variant", variant, _VARIANTS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} is one of {', '.join(map(str, allowed))}; got {value!r}")
    return _VARIANTS[variant](_FIELDS[field_order], _ORDERINGS[ordering])
