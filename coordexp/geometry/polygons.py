"""Polygons as flat x, y lists: enclosing box and area, in the unit of their points. Contract ids: DATA-008."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def polygon_points(flat: Sequence[float]) -> NDArray[np.float64]:
    """Points [N, 2] of a flat list, in order; raises `ValueError` unless it is even with three points or more."""
    if len(flat) < 6 or len(flat) % 2:
        raise ValueError(f"a polygon has an even number of values, at least 6, got {len(flat)}")
    return np.asarray(flat, dtype=np.float64).reshape(-1, 2)


def polygon_box(flat: Sequence[float]) -> tuple[float, float, float, float]:
    """Axis-aligned box x1, y1, x2, y2 around a flat list of points."""
    points = polygon_points(flat)
    (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
    return float(x1), float(y1), float(x2), float(y2)


def polygon_area(flat: Sequence[float]) -> float:
    """Area by the shoelace rule, whatever the direction; a self-crossing polygon's loops cancel."""
    points = polygon_points(flat)
    following = np.roll(points, -1, axis=0)
    return float(abs(np.sum(points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1])) / 2)
