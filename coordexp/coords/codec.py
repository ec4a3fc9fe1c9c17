"""Bins, values, pixels and coord-token text: the only place that converts between them (AUDIT-2.4).

Bin k stands for the value k/999, so 0 is 0.0 and 999 is 1.0. Nothing here, or anywhere, divides by 1000.
"""

from __future__ import annotations

import math
import re

N_BINS = 1000
MAX_BIN = N_BINS - 1
_TOKEN = re.compile(r"<\|coord_(0|[1-9][0-9]{0,2})\|>")
_INTEGER_TOLERANCE = 1e-6


def check_bin(value: float) -> int:
    """Return `value` as a bin. It must be integer-valued within 1e-6 and inside 0..999.

    Raises `ValueError` with a message of its own for a negative number, one above 999 and a fraction.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a bin is a number in 0..{MAX_BIN}, got {value!r}")
    nearest = round(value) if value == value and abs(value) != math.inf else None
    if nearest is None:
        raise ValueError(f"a bin must be finite, got {value!r}")
    if nearest < 0:
        raise ValueError(f"bin {value!r} is negative; bins are 0..{MAX_BIN}")
    if nearest > MAX_BIN:
        raise ValueError(f"bin {value!r} is above {MAX_BIN}; bins are 0..{MAX_BIN}")
    if abs(value - nearest) > _INTEGER_TOLERANCE:
        raise ValueError(f"bin {value!r} is not a whole number; bins are the integers 0..{MAX_BIN}")
    return nearest


def value_to_bin(value: float) -> int:
    """Encode a value in [0, 1] (others are clamped) as `round(999 * value)`."""
    return min(MAX_BIN, max(0, round(MAX_BIN * value)))


def bin_to_value(k: int) -> float:
    """Decode bin k to k/999."""
    return k / MAX_BIN


def pixel_to_bin(pixel: float, extent: int) -> int:
    """Encode a pixel coordinate on an axis of `extent` pixels: `round(999 * pixel / max(1, extent - 1))`, clamped."""
    return value_to_bin(pixel / max(1, extent - 1))


def bin_to_pixel(k: int, extent: int) -> float:
    """Decode bin k to a pixel coordinate on an axis of `extent` pixels."""
    return bin_to_value(k) * max(1, extent - 1)


def render_coord_token(k: int) -> str:
    """Text of the coord token of bin k, without leading zeros."""
    return f"<|coord_{check_bin(k)}|>"


def parse_coord_token(text: str) -> int:
    """Bin of a coord token's text; raises `ValueError` for anything else, leading zeros and `<|coord_*|>` included."""
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a coord token: <|coord_0|> .. <|coord_{MAX_BIN}|>, no leading zeros")
    return int(match.group(1))
