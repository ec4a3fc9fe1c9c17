"""The one description of an object that records, answers and predictions share. Contract ids: DATA-*, TEXT-*."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GeometryKind = Literal["bbox_2d", "poly"]


@dataclass(frozen=True, slots=True)
class CoordObject:
    """One object: its description and its geometry in bins.

    `bins` are integers in 0..999 (norm1000): `(x1, y1, x2, y2)` for `bbox_2d`, flat `x, y` pairs (even, at least 6
    numbers) for `poly`. Point order is the author's and is never changed.
    """

    desc: str
    kind: GeometryKind
    bins: tuple[int, ...]
