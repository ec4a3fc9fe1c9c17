"""The size an image is cooked to, and the scale of each axis. Contract ids: DATA-010."""

from __future__ import annotations

import math


def cooked_size(width: int, height: int, max_pixels: int, factor: int) -> tuple[int, int] | None:
    """Width and height as multiples of `factor`, at most `max_pixels` together, nearest to the image's own.

    None when the aspect is too extreme: the shorter side would fall under `factor` pixels and lifting it to `factor`
    would break `max_pixels`. Raises `ValueError` when `max_pixels` admits no size at all.
    """
    if width < 1 or height < 1:
        raise ValueError(f"an image has at least one pixel a side, got {width}x{height}")
    if factor < 1 or max_pixels < factor * factor:
        raise ValueError(
            f"max_pixels {max_pixels} admits no size that is a multiple of {factor}: it is at least {factor * factor}"
        )
    scale = min(1.0, math.sqrt(max_pixels / (width * height)))
    scale = max(scale, factor / min(width, height))
    columns, rows = width * scale / factor, height * scale / factor
    nearest = max(1, round(columns)), max(1, round(rows))
    if nearest[0] * nearest[1] * factor * factor > max_pixels:
        # A hair is added because a scale that ends exactly on a multiple may land just below it.
        nearest = max(1, math.floor(columns + 1e-9)), max(1, math.floor(rows + 1e-9))
    if nearest[0] * nearest[1] * factor * factor > max_pixels:
        return None
    return nearest[0] * factor, nearest[1] * factor
