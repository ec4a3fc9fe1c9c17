"""Axis-aligned boxes: clamp, area, IoU. The project's only ones. Contract ids: DATA-007, DATA-008.

Boxes are float arrays [N, 4] of corners x1, y1, x2, y2 on a continuous axis (width = x2 − x1), in any unit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Boxes = NDArray[np.float64]


def as_boxes(boxes: ArrayLike) -> Boxes:
    """`boxes` as float64 [N, 4]; an empty list is [0, 4].

    Raises `ValueError` for another shape or a non-finite number.
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes have shape {array.shape}; they are [N, 4] corners x1, y1, x2, y2")
    if not np.isfinite(array).all():
        raise ValueError("boxes hold a number that is not finite")
    return array


def clamp_boxes(boxes: ArrayLike, width: float, height: float) -> Boxes:
    """Boxes clipped to [0, width] × [0, height]; corner order is kept."""
    return np.clip(as_boxes(boxes), 0.0, [width, height, width, height])


def box_areas(boxes: ArrayLike) -> NDArray[np.float64]:
    """Areas [N]; zero where x2 < x1 or y2 < y1."""
    array = as_boxes(boxes)
    sides = np.maximum(array[:, 2:] - array[:, :2], 0.0)
    return np.asarray(sides[:, 0] * sides[:, 1])


def pairwise_iou(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union [N, M]; 0 where the union has no area."""
    a, b = as_boxes(first), as_boxes(second)
    overlap = _overlap(a, b)
    union = box_areas(a)[:, None] + box_areas(b)[None, :] - overlap
    return np.asarray(overlap / np.where(union > 0, union, 1.0))


def pairwise_coverage(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Intersection over the area of the box of `first` alone [N, M]; 0 for one without area."""
    a, b = as_boxes(first), as_boxes(second)
    own = box_areas(a)[:, None]
    return np.asarray(_overlap(a, b) / np.where(own > 0, own, 1.0))


def _overlap(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    # An axis at a time: planes [N, M] are twice as fast as one array [N, M, 2].
    across, down = (
        np.maximum(np.minimum(a[:, None, high], b[None, :, high]) - np.maximum(a[:, None, low], b[None, :, low]), 0.0)
        for low, high in ((0, 2), (1, 3))
    )
    return np.asarray(across * down)


def box_centers(boxes: ArrayLike) -> NDArray[np.float64]:
    """Centres [N, 2]."""
    array = as_boxes(boxes)
    return np.asarray((array[:, :2] + array[:, 2:]) / 2)
