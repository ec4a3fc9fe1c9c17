"""Bins, values, pixels and token text: each rule of the conversion, with the numbers written out."""

from __future__ import annotations

from fractions import Fraction

import pytest

from coordexp.coords.codec import (
    MAX_BIN,
    N_BINS,
    bin_to_pixel,
    bin_to_value,
    check_bin,
    parse_coord_token,
    pixel_to_bin,
    render_coord_token,
    value_to_bin,
)

pytestmark = pytest.mark.invariant("DATA-007")


def test_bin_k_stands_for_k_over_999() -> None:
    assert [bin_to_value(k) for k in (0, 999)] == [0.0, 1.0]
    assert all(Fraction(bin_to_value(k)).limit_denominator(999) == Fraction(k, 999) for k in range(N_BINS))


def test_every_bin_survives_value_and_token_and_pixel() -> None:
    for k in range(N_BINS):
        assert value_to_bin(bin_to_value(k)) == k
        assert parse_coord_token(render_coord_token(k)) == k
        assert pixel_to_bin(bin_to_pixel(k, 640), 640) == k


@pytest.mark.parametrize(
    ("pixel", "extent", "k"),
    [
        *[(0, 640, 0), (639, 640, 999), (640, 640, 999), (320, 640, 500), (-3, 640, 0)],
        *[(5, 1, 999), (1, 1, 999), (1, 2, 999), (0, 1, 0)],
    ],
)
def test_pixel_is_divided_by_the_last_pixel_and_clamped(pixel: float, extent: int, k: int) -> None:
    assert pixel_to_bin(pixel, extent) == k


def test_a_bin_of_a_one_pixel_axis_is_a_pixel_of_it() -> None:
    assert [bin_to_pixel(999, extent) for extent in (1, 2, 3)] == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("value", [0, 999, 3.0, 7.0000005, 6.9999995, 1e-6])
def test_integer_valued_numbers_are_bins(value: float) -> None:
    assert check_bin(value) == round(value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (1000, "above 999"),
        (-1, "negative"),
        (12.3, "not a whole number"),
        (5.00001, "not a whole number"),
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        (True, "a number"),
        ("5", "a number"),
    ],
)
def test_each_bad_bin_is_refused_with_its_own_words(value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_bin(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["<|coord_00|>", "<|coord_1000|>", "<|coord_*|>", "<|coord_-1|>", "<|coord_5|>\n", "coord_5", "<|coord_٣|>"]
)
def test_text_that_is_no_coord_token_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a coord token"):
        parse_coord_token(text)


def test_rendering_refuses_what_is_no_bin() -> None:
    with pytest.raises(ValueError, match="above"):
        render_coord_token(MAX_BIN + 1)
