"""Objects of one answer that nearly repeat an earlier one: same description, box IoU of 0.9 or more. MATCH-008."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coordexp.matching.costs import box_overlaps, enclosing_boxes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from coordexp.coords.types import CoordObject
    from coordexp.geometry.boxes import Boxes

NEAR_IOU = 0.9
"""Lowest IoU, of boxes in bins, at which an object of the same description is a near-copy."""


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """`objects` near-copies of an earlier object of the answer, and `pairs` of objects that are near one another."""

    objects: int
    pairs: int


def count_near_duplicates(objects: Iterable[CoordObject]) -> NearDuplicates:
    """Near-copies among the objects of one answer, in the order written.

    Descriptions are compared in NFC, polygons by the boxes around them. Equal boxes are near-copies whether they have
    an area or not. Time and memory are quadratic in the objects of one description only.
    """
    named: dict[str, list[CoordObject]] = defaultdict(list)
    for obj in objects:
        named[unicodedata.normalize("NFC", obj.desc)].append(obj)
    copies = pairs = 0
    for group in named.values():
        earlier = near_copies(enclosing_boxes(group))
        copies += int(earlier.any(axis=1).sum())
        pairs += int(earlier.sum())
    return NearDuplicates(copies, pairs)


def near_copies(boxes: Boxes) -> NDArray[np.bool_]:
    """Which boxes [N, N] of one description nearly repeat which earlier ones: row i repeats column j < i.

    Equal boxes do whether they have an area or not. The unit plays no part.
    """
    return np.tril(box_overlaps(boxes, boxes) >= NEAR_IOU, k=-1)
