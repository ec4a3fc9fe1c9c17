"""Pixels to norm1000 bins and back, whole arrays at once. Contract ids: DATA-007.

The same rule as the scalar codec: bin k is the value k/999, an axis of n pixels runs from 0 to n − 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LAST_BIN = 999


def pixels_to_bins(points: ArrayLike, width: int, height: int) -> NDArray[np.int64]:
    """Bins of pixel coordinates whose last axis alternates x, y (points [.., 2], boxes [.., 4], flat polygons).

    `clamp(round(999·x / max(1, width − 1)), 0, 999)`, y with height; halves round to even. Raises `ValueError` for an
    odd last axis or a number that is not finite.
    """
    array = _alternating(points)
    scaled = np.rint(LAST_BIN * (array / _extents(array, width, height)))
    return np.clip(scaled, 0, LAST_BIN).astype(np.int64)


def bins_to_pixels(bins: ArrayLike, width: int, height: int) -> NDArray[np.float64]:
    """Pixel coordinates of bins, on the same axes; raises `ValueError` for bins outside 0..999."""
    array = _alternating(bins)
    if array.size and (array.min() < 0 or array.max() > LAST_BIN):
        raise ValueError(f"bins are 0..{LAST_BIN}, got {array.min()} .. {array.max()}")
    return np.asarray(array / LAST_BIN * _extents(array, width, height))


def _alternating(points: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] % 2:
        raise ValueError(f"coordinates of shape {array.shape} do not alternate x, y on their last axis")
    if not np.isfinite(array).all():
        raise ValueError("coordinates hold a number that is not finite")
    return array


def _extents(array: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    return np.tile([max(1.0, width - 1), max(1.0, height - 1)], array.shape[-1] // 2)
