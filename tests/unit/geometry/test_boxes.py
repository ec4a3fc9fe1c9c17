"""Boxes, polygons and cooked sizes, against an independent oracle where there is one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from coordexp.coords.codec import MAX_BIN, bin_to_pixel, pixel_to_bin
from coordexp.geometry import (
    as_boxes,
    bins_to_pixels,
    box_areas,
    box_centers,
    clamp_boxes,
    cooked_size,
    fits_processor,
    pairwise_iou,
    pixels_to_bins,
    polygon_area,
    polygon_box,
    polygon_points,
)


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.uniform(-50, 150, size=(count, 2, 2))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


@pytest.mark.invariant("DATA-008")
def test_iou_equals_pycocotools() -> None:
    rng = np.random.default_rng(0)
    first, second = random_boxes(rng, 40), random_boxes(rng, 30)
    as_xywh = [np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1) for boxes in (first, second)]
    expected = coco_mask.iou(as_xywh[0], as_xywh[1], np.zeros(30))
    np.testing.assert_allclose(pairwise_iou(first, second), expected, rtol=0, atol=1e-12)


@pytest.mark.invariant("DATA-008")
def test_iou_of_boxes_without_area_is_zero_not_nan() -> None:
    point = [[5, 5, 5, 5]]
    assert pairwise_iou(point, point).tolist() == [[0.0]]
    assert pairwise_iou(point, [[0, 0, 10, 10]]).tolist() == [[0.0]]
    assert pairwise_iou([[9, 9, 1, 1]], [[0, 0, 10, 10]]).tolist() == [[0.0]]


@pytest.mark.invariant("DATA-008")
def test_iou_of_nothing_has_the_right_shape() -> None:
    assert pairwise_iou([], [[0, 0, 1, 1]]).shape == (0, 1)
    assert pairwise_iou([[0, 0, 1, 1]], []).shape == (1, 0)


@pytest.mark.invariant("DATA-008")
def test_known_boxes_have_the_known_iou_area_and_centre() -> None:
    assert pairwise_iou([[0, 0, 2, 2]], [[1, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2]]).tolist() == [[1 / 7, 1.0, 0.0]]
    assert box_areas([[0, 0, 2, 3], [2, 2, 1, 5]]).tolist() == [6.0, 0.0]
    assert box_centers([[0, 0, 2, 3]]).tolist() == [[1.0, 1.5]]


@pytest.mark.invariant("DATA-008")
def test_boxes_smaller_than_one_unit_overlap_like_large_ones() -> None:
    assert pairwise_iou([[0, 0, 0.5, 0.5]], [[0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5]]).tolist() == [[1.0, 1 / 3]]


@pytest.mark.invariant("DATA-008")
def test_whole_numbers_become_float64() -> None:
    assert as_boxes([[0, 0, 2, 3]]).dtype == as_boxes([]).dtype == np.float64
    assert polygon_points([0, 0, 4, 0, 4, 3]).dtype == np.float64


@pytest.mark.invariant("DATA-008")
def test_clamping_keeps_corner_order_and_stays_inside() -> None:
    assert clamp_boxes([[-5, 3, 120, 70]], 100, 50).tolist() == [[0.0, 3.0, 100.0, 50.0]]


@pytest.mark.invariant("DATA-008")
@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        ([1, 2, 3, 4], r"^boxes have shape \(4,\); they are \[N, 4\] corners x1, y1, x2, y2$"),
        ([[1, 2, 3]], r"^boxes have shape \(1, 3\); they are \[N, 4\] corners x1, y1, x2, y2$"),
        ([[0, 0, math.nan, 1]], r"^boxes hold a number that is not finite$"),
    ],
)
def test_what_is_no_list_of_boxes_is_refused(boxes: list[object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        as_boxes(boxes)


@pytest.mark.invariant("DATA-008")
def test_polygon_box_and_area() -> None:
    square = [0, 0, 4, 0, 4, 3, 0, 3]
    backwards = [0, 3, 4, 3, 4, 0, 0, 0]
    assert polygon_box(square) == polygon_box(backwards) == (0.0, 0.0, 4.0, 3.0)
    assert polygon_area(square) == polygon_area(backwards) == 12.0
    assert polygon_points(backwards).tolist() == [[0, 3], [4, 3], [4, 0], [0, 0]]


@pytest.mark.invariant("DATA-008")
def test_a_triangle_away_from_the_origin_has_the_area_of_its_sides() -> None:
    triangle = [1, 1, 5, 1, 3, 4]
    assert polygon_points(triangle).tolist() == [[1, 1], [5, 1], [3, 4]]
    assert polygon_area(triangle) == 6.0
    assert polygon_box(triangle) == (1.0, 1.0, 5.0, 4.0)


@pytest.mark.invariant("DATA-008")
@pytest.mark.parametrize("flat", [[], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]])
def test_a_polygon_of_the_wrong_arity_is_refused(flat: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 6"):
        polygon_box(flat)


@pytest.mark.invariant("DATA-007")
def test_arrays_convert_as_the_codec_does() -> None:
    width, height = 641, 37
    grid = [(x / 3, y / 3) for x in range(0, 3 * width, 7) for y in range(0, 3 * height, 11)]
    expected = [[pixel_to_bin(x, width), pixel_to_bin(y, height)] for x, y in grid]
    assert pixels_to_bins(grid, width, height).tolist() == expected
    bins = [[k, MAX_BIN - k] for k in range(MAX_BIN + 1)]
    back = [[bin_to_pixel(x, width), bin_to_pixel(y, height)] for x, y in bins]
    np.testing.assert_array_equal(bins_to_pixels(bins, width, height), back)


@pytest.mark.invariant("DATA-007")
def test_far_edge_is_bin_999_and_one_pixel_axes_do_not_divide_by_zero() -> None:
    assert pixels_to_bins([0, 0, 640, 480], 640, 480).tolist() == [0, 0, 999, 999]
    assert pixels_to_bins([0, 0, 1, 1], 1, 1).tolist() == [0, 0, 999, 999]


@pytest.mark.invariant("DATA-007")
def test_bins_are_integers_and_pixels_outside_the_image_are_clamped() -> None:
    assert pixels_to_bins([-3, -1, 12, 99], 10, 10).tolist() == [0, 0, 999, 999]
    assert pixels_to_bins([1, 2], 10, 10).dtype == np.int64


@pytest.mark.invariant("DATA-007")
@pytest.mark.parametrize("kind", [np.float32, np.int16, np.float64])
def test_the_type_of_the_numbers_does_not_change_the_pixels(kind: type) -> None:
    bins = np.array([[1, 998], [7, 313]], dtype=kind)
    expected = [[bin_to_pixel(x, 641), bin_to_pixel(y, 37)] for x, y in [(1, 998), (7, 313)]]
    assert bins_to_pixels(bins, 641, 37).tolist() == expected


@pytest.mark.invariant("DATA-007")
def test_bad_coordinates_are_refused() -> None:
    with pytest.raises(ValueError, match="alternate"):
        pixels_to_bins([1, 2, 3], 10, 10)
    with pytest.raises(ValueError, match=r"^coordinates hold a number that is not finite$"):
        pixels_to_bins([1, math.inf], 10, 10)
    with pytest.raises(ValueError, match="bins are"):
        bins_to_pixels([1, 1000], 10, 10)


@pytest.mark.invariant("DATA-010")
@pytest.mark.parametrize(
    ("size", "max_pixels", "expected"),
    [
        ((640, 480), 640 * 480, (640, 480)),
        ((640, 480), 640 * 480 - 1, (608, 448)),
        ((100, 50), 10**6, (96, 64)),
        ((88, 168), 25600, (96, 160)),
        ((10, 10), 10**6, (64, 64)),
        ((10, 40), 10**6, (32, 128)),
        ((4000, 10), 32 * 32 * 20, None),
        ((10, 4000), 32 * 32 * 20, None),
        ((1, 1), 4096, (64, 64)),
        ((160, 125), 5 * 1024, (64, 64)),
        ((90, 60), 90 * 70, (96, 64)),
        ((60, 90), 90 * 70, (64, 96)),
        ((90, 46), 10**6, (96, 64)),
        ((96, 40), 4096, (128, 32)),
        ((40, 96), 4096, (32, 128)),
        ((6000, 30), 10**6, (6400, 32)),
        ((6592, 32), 10**6, None),
        ((9000, 9000), 10**9, (4096, 4096)),
    ],
)
def test_cooked_sizes(size: tuple[int, int], max_pixels: int, expected: tuple[int, int] | None) -> None:
    assert cooked_size(*size, max_pixels, 32) == expected


@pytest.mark.invariant("DATA-010")
def test_a_larger_factor_gives_its_own_multiples() -> None:
    assert cooked_size(200, 130, 10**6, 64) == (192, 128)


@pytest.mark.invariant("DATA-010")
@pytest.mark.parametrize("request_", [(0, 5, 4096, 32), (5, 5, 4095, 32), (5, 5, 4096, 0), (5, 5, 10**6, 28)])
def test_a_size_that_cannot_be_met_is_refused(request_: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        cooked_size(*request_)


@pytest.mark.invariant("DATA-060")
@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(4096, 10**7))
def test_what_is_cooked_fits_the_processor(width: int, height: int, max_pixels: int) -> None:
    size = cooked_size(width, height, max_pixels, 32)
    if size is None:
        assert max(width, height) > 4 * min(width, height) or max_pixels < 8 * 1024
    else:
        assert fits_processor(*size) and size[0] * size[1] <= max_pixels
