"""Properties of every static plan: nothing lost, nothing split, the cap holds, never below dataset order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.packing.plan import build_plan, first_in_first_out


@st.composite
def lengths_and_cap(draw: st.DrawFn) -> tuple[list[int], int]:
    cap = draw(st.integers(1, 60))
    return draw(st.lists(st.integers(1, cap), max_size=80)), cap


@pytest.mark.invariant("PACK-001")
@given(lengths_and_cap())
def test_every_sample_is_in_exactly_one_row(problem):
    lengths, cap = problem
    assert sorted(index for pack in build_plan(lengths, cap).packs for index in pack) == list(range(len(lengths)))


@pytest.mark.invariant("PACK-002")
@given(lengths_and_cap())
def test_no_row_is_empty_or_longer_than_the_cap(problem):
    lengths, cap = problem
    assert all(1 <= sum(lengths[index] for index in pack) <= cap for pack in build_plan(lengths, cap).packs)


@pytest.mark.invariant("PACK-003")
@given(lengths_and_cap())
def test_there_are_never_more_rows_than_in_dataset_order(problem):
    lengths, cap = problem
    plan = build_plan(lengths, cap)
    assert len(plan.packs) <= len(first_in_first_out(lengths, cap))
    assert plan.fill == (sum(lengths) / (cap * len(plan.packs)) if lengths else 1.0)


@pytest.mark.invariant("PACK-003")
@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.randoms())
def test_a_dataset_that_fits_exactly_in_its_own_order_is_packed_without_waste(cuts, random):
    """Rows are cut into samples at random and listed row by row: dataset order is perfect, so the plan is."""
    lengths = []
    for cut in cuts:
        lengths += [part for part in (cut, 30 - cut) if part]
    assert build_plan(lengths, 30).fill == 1.0


@pytest.mark.invariant("PACK-004")
@given(lengths_and_cap())
def test_the_same_lengths_give_the_same_plan(problem):
    lengths, cap = problem
    assert build_plan(list(lengths), cap) == build_plan(tuple(lengths), cap)


@pytest.mark.invariant("PACK-004")
@given(lengths_and_cap(), st.randoms())
def test_shuffling_the_dataset_keeps_the_fill_at_or_above_its_own_dataset_order(problem, random):
    lengths, cap = problem
    shuffled = list(lengths)
    random.shuffle(shuffled)
    plan = build_plan(shuffled, cap)
    assert len(plan.packs) <= min(len(first_in_first_out(shuffled, cap)), len(lengths))
    assert [pack[0] for pack in plan.packs] == sorted(pack[0] for pack in plan.packs)
    assert all(list(pack) == sorted(pack) for pack in plan.packs)
