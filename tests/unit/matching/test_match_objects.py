"""Matching by hand: every clause of it on cases small enough to check by eye, and masks against pycocotools' pixels."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from coordexp.config.rollout_sections import RolloutMatchingConfig
from coordexp.coords.types import CoordObject
from coordexp.geometry.boxes import as_boxes
from coordexp.matching.assignment import assign
from coordexp.matching.costs import choose_candidates, enclosing_boxes, mask_overlaps, pixel_boxes
from coordexp.matching.objects import match_objects
from coordexp.matching.types import MatchSettings, build_settings
from coordexp.spec import load_cases
from tests.unit.matching.reference import SETTINGS, box, feasible_costs, poly, solver_choice

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "matching"
CASES = [
    pytest.param(case.input, case.expect, id=case.description) for case in load_cases(FIXTURES / "pairs.json").cases
]
RESOLUTIONS = (8, 9, 100, 255, 256, 257, 1000)


def objects(rows: list[list[int]]) -> list[CoordObject]:
    return [CoordObject(f"thing {n}", "bbox_2d" if len(row) == 4 else "poly", tuple(row)) for n, row in enumerate(rows)]


@pytest.mark.invariant("MATCH-001")
@pytest.mark.invariant("MATCH-002")
@pytest.mark.invariant("MATCH-003")
@pytest.mark.invariant("MATCH-005")
@pytest.mark.parametrize(("given", "expected"), CASES)
def test_objects_pair_as_worked_out_by_hand(given: dict[str, Any], expected: dict[str, Any]) -> None:
    settings = replace(SETTINGS, maskiou_resolution=1000)
    settings = replace(settings, **given.get("knobs", {}))
    predictions, truths = objects(given["predictions"]), objects(given["truths"])
    result = match_objects(predictions, truths, settings)
    pairs = [(row[0], row[1]) for row in expected["matched"]]
    assert [(m.prediction, m.truth) for m in result.matched] == pairs
    assert [m.iou for m in result.matched] == pytest.approx([row[2] for row in expected["matched"]], abs=1e-12)
    assert result.false_positives == tuple(expected["false_positives"])
    assert result.false_negatives == tuple(expected["false_negatives"])
    assert result.gated == expected["gated"]
    costs, gated = feasible_costs(predictions, truths, settings)
    assert solver_choice(costs, settings.fp_cost, settings.fn_cost) == pairs
    assert gated == expected["gated"]


@pytest.mark.invariant("MATCH-001")
def test_the_settings_are_those_of_the_configuration() -> None:
    knobs = MatchSettings(candidate_top_k=3, maskiou_gate=0.1, maskiou_resolution=64, fp_cost=0.7, fn_cost=0.9)
    config = RolloutMatchingConfig(candidate_top_k=3, maskiou_gate=0.1, maskiou_resolution=64, fp_cost=0.7, fn_cost=0.9)
    assert build_settings(config) == knobs
    assert build_settings(RolloutMatchingConfig()) == SETTINGS


@pytest.mark.invariant("MATCH-002")
@pytest.mark.parametrize("cost", [1e6, 1e9, 1e15])
def test_no_price_of_being_alone_pairs_what_does_not_overlap(cost: float) -> None:
    settings = replace(SETTINGS, fp_cost=cost, fn_cost=cost)
    result = match_objects([box(0, 0, 9, 9), box(0, 0, 9, 3)], [box(0, 0, 9, 9), box(500, 500, 600, 600)], settings)
    assert [(m.prediction, m.truth) for m in result.matched] == [(0, 0)]


@pytest.mark.invariant("MATCH-003")
def test_a_second_candidate_is_kept_at_a_top_k_of_two() -> None:
    truths = [box(0, 0, 10, 10), box(5, 0, 15, 10), box(2, 0, 12, 10)]
    assert choose_candidates([box(0, 0, 10, 10)], truths, 2).tolist() == [[True, False, True]]
    assert choose_candidates([box(0, 0, 10, 10)], truths, 3).tolist() == [[True, True, True]]


@pytest.mark.invariant("MATCH-003")
def test_the_distance_counts_only_for_a_prediction_that_overlaps_nothing() -> None:
    far_overlap, near_apart = box(0, 0, 500, 500), box(480, 401, 520, 403)
    prediction = box(450, 0, 550, 400)
    assert choose_candidates([prediction], [near_apart, far_overlap], 1).tolist() == [[False, True]]


@pytest.mark.invariant("MATCH-004")
@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_box_sets_the_pixels_that_pycocotools_sets(axis: int, resolution: int) -> None:
    """Each left side with the last bin, each right side with the first, and every short box, on either axis."""
    spans = [(k, 999) for k in range(1000)] + [(0, k) for k in range(1000)]
    spans += [(k, k + d) for k in range(1000) for d in range(min(10, 1000 - k))]
    boxes = as_boxes([(a, 0, b, 999) if axis == 0 else (0, a, 999, b) for a, b in spans])
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]] * (resolution - 1) / 999
    masks = coco_mask.frPyObjects(corners.tolist(), resolution, resolution)
    areas = [int(coco_mask.area(mask)) for mask in masks]
    pixels = pixel_boxes(boxes, resolution)
    sides = np.maximum(pixels[:, 2:] - pixels[:, :2], 0)
    # A mask of as many pixels as its bounding box has is that box, filled.
    assert areas == sides.prod(axis=1).tolist()
    solid = sides.prod(axis=1) > 0
    assert solid.any()
    found = coco_mask.toBbox(masks)[solid]
    assert found.tolist() == np.concatenate([pixels[solid, :2], sides[solid]], axis=1).tolist()


@pytest.mark.invariant("MATCH-004")
def test_boxes_overlap_alike_whether_they_are_drawn_or_not() -> None:
    """A polygon in the company sends every object through pycocotools."""
    draw = np.random.default_rng(0)
    sides = np.sort(draw.integers(0, 1000, (40, 2, 2)), axis=2)
    boxes = [box(*(int(k) for k in (x[0], y[0], x[1], y[1]))) for x, y in sides]
    triangle = poly(0, 0, 999, 0, 0, 999)
    drawn = mask_overlaps([*boxes, triangle], boxes, 256)
    assert mask_overlaps(boxes, boxes, 256).tolist() == drawn[:-1].tolist()
    assert (drawn[-1] > 0).any()


@pytest.mark.invariant("MATCH-004")
def test_the_canvas_ends_at_the_last_bin() -> None:
    """Bin 999 is the middle of the last pixel, at any resolution: k * R / 1000 would leave half a pixel."""
    assert pixel_boxes(as_boxes([[0, 0, 999, 999]]), 256).tolist() == [[0, 0, 255, 255]]
    assert pixel_boxes(as_boxes([[333, 0, 666, 999]]), 256).tolist() == [[85, 0, 170, 255]]
    halves = [box(0, 0, 333, 999), box(0, 0, 666, 999)]
    assert mask_overlaps(halves, [box(0, 0, 999, 999)], 256).tolist() == [[85 / 255], [170 / 255]]


@pytest.mark.invariant("MATCH-005")
def test_most_squares_of_up_to_three_bins_have_no_pixel_and_still_match_themselves() -> None:
    squares = [box(k, 7 * k % 996, k + side, 7 * k % 996 + side) for side in (1, 2, 3) for k in range(996)]
    boxes = pixel_boxes(enclosing_boxes(squares), 256)
    empty = (boxes[:, 0] == boxes[:, 2]) | (boxes[:, 1] == boxes[:, 3])
    assert empty.mean() > 0.5
    for square in itertools.compress(squares, empty):
        assert match_objects([square], [square], SETTINGS).matched[0].iou == 1.0


@pytest.mark.invariant("MATCH-005")
def test_an_empty_mask_changes_no_other_pair() -> None:
    solid, point = [box(0, 0, 300, 300), box(100, 100, 400, 400)], box(7, 7, 7, 7)
    alone = mask_overlaps(solid, solid, 256)
    beside = mask_overlaps([*solid, point], [*solid, point], 256)
    assert beside[:2, :2].tolist() == alone.tolist() and 0 < alone[0, 1] < 1
    assert beside[2].tolist() == beside[:, 2].tolist() == [0.0, 0.0, 1.0]


@pytest.mark.invariant("MATCH-005")
def test_hundreds_of_masks_are_compared_like_few() -> None:
    """pycocotools 2.0.11 counts masks in one byte where it measures areas."""
    many = [*(box(3 * k, 0, 3 * k + 2, 2) for k in range(300)), poly(0, 500, 999, 500, 500, 999)]
    result = match_objects(many, many, replace(SETTINGS, candidate_top_k=1))
    assert [(m.prediction, m.truth, m.iou) for m in result.matched] == [(k, k, 1.0) for k in range(301)]


@pytest.mark.invariant("MATCH-006")
def test_copies_of_an_object_leave_the_choice_to_the_solver() -> None:
    """Exact repeats are the commonest tie of a rollout: all optima are equal, and the choice never varies."""
    predictions, truths = [box(0, 0, 100, 100)] * 3 + [box(0, 0, 100, 90)], [box(0, 0, 100, 100)] * 2
    costs, _ = feasible_costs(predictions, truths, SETTINGS)
    expected = solver_choice(costs, SETTINGS.fp_cost, SETTINGS.fn_cost)
    results = {match_objects(predictions, truths, SETTINGS) for _ in range(20)}
    (result,) = results
    assert [(m.prediction, m.truth) for m in result.matched] == expected
    assert len(expected) == 2 and 3 not in [row for row, _ in expected]


@pytest.mark.invariant("MATCH-006")
@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_pairs_with_nothing(rows: int, columns: int) -> None:
    assert assign(np.zeros((rows, columns)), 1.0, 1.0) == ()
