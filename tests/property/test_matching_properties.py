"""Matching against brute force and against plain loops; what order, gate and names may change, and what not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coordexp.coords.types import CoordObject
from coordexp.matching.assignment import FORBIDDEN, assign
from coordexp.matching.costs import choose_candidates, mask_overlaps
from coordexp.matching.duplicates import count_near_duplicates
from coordexp.matching.objects import match_objects
from coordexp.matching.types import MatchSettings
from tests.strategies import coord_objects
from tests.unit.matching.reference import (
    SETTINGS,
    around,
    box_iou,
    candidates,
    feasible_costs,
    mask_iou,
    partial_assignments,
    solver_choice,
    total,
)

DESCS = st.sampled_from(["cat", "dog"])
# Multiples of an eighth add up without rounding, so that equal totals are equal.
EIGHTHS = st.integers(0, 16).map(lambda n: n / 8)
PAIR_COSTS = st.one_of(st.just(np.inf), st.integers(0, 8).map(lambda n: n / 8))


@st.composite
def cost_matrices(draw):
    rows, columns = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    return np.array([[draw(PAIR_COSTS) for _ in range(columns)] for _ in range(rows)]).reshape(rows, columns)


@st.composite
def near_boxes(draw):
    """Boxes on few places of few sizes, equal, shifted by a bin or two, and without area."""
    side = draw(st.sampled_from((0, 1, 3, 4, 5, 40, 120)))
    x, y = draw(st.sampled_from((0, 1, 2, 60, 100))), draw(st.sampled_from((0, 1, 30, 100)))
    return CoordObject(draw(DESCS), "bbox_2d", (x, y, x + side, y + draw(st.sampled_from((side, side + 1, 40)))))


OBJECTS = st.one_of(near_boxes(), near_boxes(), coord_objects(DESCS))
ANSWERS = st.lists(OBJECTS, max_size=5)
KNOBS = st.builds(
    MatchSettings,
    candidate_top_k=st.integers(1, 6),
    maskiou_gate=st.sampled_from((0.0, 0.3, 0.5, 0.9, 1.0)),
    maskiou_resolution=st.sampled_from((8, 64, 256)),
    fp_cost=st.sampled_from((0.0, 0.25, 0.5, 1.0)),
    fn_cost=st.sampled_from((0.0, 0.25, 2.0)),
)


@pytest.mark.invariant("MATCH-001")
@given(cost_matrices(), EIGHTHS, EIGHTHS)
def test_no_partial_assignment_costs_less(costs, fp_cost, fn_cost):
    pairs = assign(costs, fp_cost, fn_cost)
    best = min(total(costs, some, fp_cost, fn_cost) for some in partial_assignments(*costs.shape))
    assert total(costs, list(pairs), fp_cost, fn_cost) == best
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert list(pairs) == sorted(pairs)


@pytest.mark.invariant("MATCH-006")
@given(cost_matrices(), EIGHTHS, EIGHTHS)
def test_of_equal_optima_the_solver_takes_its_own_on_the_matrix_with_dummies(costs, fp_cost, fn_cost):
    assert list(assign(costs, fp_cost, fn_cost)) == solver_choice(costs, fp_cost, fn_cost)


@pytest.mark.invariant("MATCH-002")
@given(cost_matrices(), st.sampled_from((0.0, 1.0, 1e3, 1e9, 1e15)), st.sampled_from((0.0, 1e3, 1e9, 1e15)))
def test_a_forbidden_pair_is_never_chosen_whatever_it_costs_to_leave_it(costs, fp_cost, fn_cost):
    assert all(costs[pair] < FORBIDDEN for pair in assign(costs, fp_cost, fn_cost))


@pytest.mark.invariant("MATCH-001")
@pytest.mark.invariant("MATCH-002")
@pytest.mark.invariant("MATCH-006")
@given(ANSWERS, ANSWERS, KNOBS)
def test_matching_equals_that_of_plain_loops(predictions, truths, knobs):
    result = match_objects(predictions, truths, knobs)
    costs, gated = feasible_costs(predictions, truths, knobs)
    expected = solver_choice(costs, knobs.fp_cost, knobs.fn_cost)
    assert [(match.prediction, match.truth) for match in result.matched] == expected
    assert [1.0 - match.iou for match in result.matched] == [costs[pair] for pair in expected]
    assert result.gated == gated
    assert all(match.iou >= knobs.maskiou_gate and match.iou > 0 for match in result.matched)


@pytest.mark.invariant("MATCH-008")
@given(ANSWERS, ANSWERS, KNOBS)
def test_every_object_is_matched_or_left_alone_once(predictions, truths, knobs):
    result = match_objects(predictions, truths, knobs)
    taken = [match.prediction for match in result.matched]
    met = [match.truth for match in result.matched]
    assert sorted([*taken, *result.false_positives]) == list(range(len(predictions)))
    assert sorted([*met, *result.false_negatives]) == list(range(len(truths)))
    for order in (taken, result.false_positives, result.false_negatives):
        assert list(order) == sorted(order)


@pytest.mark.invariant("MATCH-003")
@given(ANSWERS, st.lists(OBJECTS, min_size=1, max_size=6), st.integers(1, 7))
def test_candidates_are_those_of_exact_fractions(predictions, truths, top_k):
    chosen = choose_candidates(predictions, truths, top_k)
    assert chosen.shape == (len(predictions), len(truths))
    for prediction, row in zip(predictions, chosen, strict=True):
        assert np.flatnonzero(row).tolist() == sorted(candidates(prediction, truths, top_k))


@pytest.mark.invariant("MATCH-004")
@pytest.mark.invariant("MATCH-005")
@given(
    st.lists(OBJECTS, min_size=1, max_size=4),
    st.lists(OBJECTS, min_size=1, max_size=4),
    st.sampled_from((8, 9, 100, 256, 1000)),
)
def test_overlaps_are_those_of_bitmaps(predictions, truths, side):
    expected = [[mask_iou(one, other, side) for other in truths] for one in predictions]
    assert mask_overlaps(predictions, truths, side).tolist() == expected


@pytest.mark.invariant("MATCH-006")
@given(ANSWERS, ANSWERS, KNOBS, st.randoms(use_true_random=False))
def test_order_changes_no_total_and_no_single_optimum(predictions, truths, knobs, random):
    """With every pair a candidate: the lower index only matters where candidates are cut off."""
    knobs = replace(knobs, candidate_top_k=max(1, len(truths)))
    costs, _ = feasible_costs(predictions, truths, knobs)
    rows, columns = (random.sample(range(len(some)), len(some)) for some in (predictions, truths))
    moved = match_objects([predictions[i] for i in rows], [truths[j] for j in columns], knobs)
    pairs = sorted((rows[match.prediction], columns[match.truth]) for match in moved.matched)
    kept = [(match.prediction, match.truth) for match in match_objects(predictions, truths, knobs).matched]
    price = total(costs, kept, knobs.fp_cost, knobs.fn_cost)
    assert total(costs, pairs, knobs.fp_cost, knobs.fn_cost) == pytest.approx(price)
    assume(len(predictions) <= 3 and len(truths) <= 3)
    every = (total(costs, some, knobs.fp_cost, knobs.fn_cost) for some in partial_assignments(*costs.shape))
    if sum(other == pytest.approx(price) for other in every) == 1:
        assert pairs == kept


@pytest.mark.invariant("MATCH-002")
@given(ANSWERS, ANSWERS, KNOBS, st.sampled_from((0.0, 0.3, 0.5, 0.9, 1.0)))
def test_a_higher_gate_only_keeps_more_pairs_apart(predictions, truths, knobs, gate):
    low, high = sorted((knobs.maskiou_gate, gate))
    prices = []
    for limit in (low, high):
        result = match_objects(predictions, truths, replace(knobs, maskiou_gate=limit))
        alone = knobs.fp_cost * len(result.false_positives) + knobs.fn_cost * len(result.false_negatives)
        prices.append((sum(1.0 - match.iou for match in result.matched) + alone, result.gated))
    assert prices[0][0] <= prices[1][0] + 1e-9 and prices[0][1] <= prices[1][1]


@pytest.mark.invariant("MATCH-008")
@given(ANSWERS, ANSWERS)
def test_names_play_no_part(predictions, truths):
    named = [replace(obj, desc=f"thing {number}") for number, obj in enumerate(predictions)]
    assert match_objects(named, truths, SETTINGS) == match_objects(predictions, truths, SETTINGS)


@pytest.mark.invariant("MATCH-009")
@settings(max_examples=40)
@given(st.lists(OBJECTS, max_size=7))
def test_near_copies_are_those_of_plain_loops(objects):
    near = [
        (i, j)
        for j in range(len(objects))
        for i in range(j)
        if objects[i].desc == objects[j].desc
        and (around(objects[i]) == around(objects[j]) or float(box_iou(objects[i], objects[j])) >= 0.9)
    ]
    found = count_near_duplicates(objects)
    assert (found.pairs, found.objects) == (len(near), len({j for _, j in near}))
