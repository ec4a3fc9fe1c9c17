"""The sizes that Qwen3-VL's processor takes as they are, and the one that cooking brings an image to.

Contract ids: DATA-010, DATA-060. Pure arithmetic over pixels; ms-swift's own bounds are compared with it by a test.
"""

from __future__ import annotations

import math

SIZE_MULTIPLE = 32
"""Pixels a side of what one vision token stands for."""
MIN_IMAGE_TOKENS, MAX_IMAGE_TOKENS = 4, 16384
MAX_ASPECT = 200
"""The longer side over the shorter one."""
_TOKEN_PIXELS = SIZE_MULTIPLE**2


def fits_processor(width: int, height: int) -> bool:
    """Whether the processor takes such an image as it is: everything else it resizes or refuses."""
    if width % SIZE_MULTIPLE or height % SIZE_MULTIPLE or not within_aspect(width, height):
        return False
    return MIN_IMAGE_TOKENS <= width * height // _TOKEN_PIXELS <= MAX_IMAGE_TOKENS


def within_aspect(width: int, height: int) -> bool:
    """Whether neither side is more than `MAX_ASPECT` times the other."""
    return max(width, height) <= MAX_ASPECT * min(width, height)


def cooked_size(width: int, height: int, max_pixels: int, factor: int) -> tuple[int, int] | None:
    """Width and height as multiples of `factor`, at most `max_pixels` together, nearest to the image's own, and as the
    processor takes them: an image of fewer than `MIN_IMAGE_TOKENS` is enlarged.

    None when the aspect is too extreme: the shorter side would fall under `factor` pixels and lifting it to `factor`
    would break `max_pixels`, or the cooked image would be longer than `MAX_ASPECT`. Raises `ValueError` when
    `max_pixels` admits no size at all, or `factor` none that training takes.
    """
    if width < 1 or height < 1:
        raise ValueError(f"an image has at least one pixel a side, got {width}x{height}")
    check_bounds(max_pixels, factor)
    cap = min(max_pixels, MAX_IMAGE_TOKENS * _TOKEN_PIXELS)
    scale = min(1.0, math.sqrt(cap / (width * height)))
    scale = max(scale, factor / min(width, height), math.sqrt(MIN_IMAGE_TOKENS * _TOKEN_PIXELS / (width * height)))
    columns, rows = width * scale / factor, height * scale / factor
    # A hair is added and taken away because a scale that ends exactly on a multiple may land just beside it.
    wide, high = ((math.ceil(side - 1e-9), math.floor(side + 1e-9)) for side in (columns, rows))
    # The nearest first; both sides up where that has too few tokens, both down where it has too many, then either.
    sides = ((round(columns), round(rows)), *((wide[x], high[y]) for x, y in ((0, 0), (1, 1), (0, 1), (1, 0))))
    for across, along in sides:
        size = max(1, across) * factor, max(1, along) * factor
        if size[0] * size[1] <= max_pixels and fits_processor(*size):
            return size
    return None


def check_bounds(max_pixels: int, factor: int) -> None:
    """Raise `ValueError` for bounds that no cooked image could meet."""
    if factor < 1 or factor % SIZE_MULTIPLE:
        raise ValueError(
            f"factor is {factor}; training takes sides in multiples of {SIZE_MULTIPLE} pixels alone, so it is at least "
            f"{SIZE_MULTIPLE} and a multiple of it"
        )
    least = factor * factor * math.ceil(MIN_IMAGE_TOKENS * _TOKEN_PIXELS / (factor * factor))
    if max_pixels < least:
        raise ValueError(
            f"max_pixels {max_pixels} admits no size that is a multiple of {factor} and has {MIN_IMAGE_TOKENS} vision "
            f"tokens, the processor's fewest: it is at least {least}"
        )
