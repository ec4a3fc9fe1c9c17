"""The parts of the static plan: rows of each strategy written out, and the searches against brute force."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.packing.plan import LengthPool, best_fit_decreasing, build_plan, choose_next, first_in_first_out

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=12)


@pytest.mark.invariant("PACK-003")
@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([3, 5, 2, 6], [[6, 2], [5, 3]]),
        ([4, 4, 4], [[4, 4], [4]]),
        ([7, 6, 2, 1], [[7, 1], [6, 2]]),
        ([6, 5, 3, 2], [[6, 2], [5, 3]]),
    ],
)
def test_best_fit_puts_the_longest_first_and_each_into_the_fullest_row_that_takes_it(lengths, rows):
    assert best_fit_decreasing(lengths, 8) == rows


@pytest.mark.invariant("PACK-003")
def test_dataset_order_opens_a_row_whenever_the_next_does_not_fit():
    assert first_in_first_out([3, 5, 1, 8, 2, 6], 8) == [[3, 5], [1], [8], [2, 6]]


@pytest.mark.invariant("PACK-003")
@given(LENGTHS, st.integers(1, 45))
def test_the_best_pair_is_the_best_of_all_pairs(lengths, room):
    found = LengthPool(lengths).best_pair(room)
    fitting = [first + second for first, second in combinations(lengths, 2) if first + second <= room]
    assert sum(found) == max(fitting, default=0)
    assert len(found) == (2 if fitting else 0)
    assert not set(found) - set(lengths)


@pytest.mark.invariant("PACK-003")
@pytest.mark.parametrize(
    ("lengths", "pair"), [([4, 4], (4, 4)), ([4, 4, 1], (4, 4)), ([4, 1], (4, 1)), ([4, 4, 4], (4, 4)), ([4], ())]
)
def test_two_equal_samples_are_a_pair_and_one_alone_is_none(lengths, pair):
    assert LengthPool(lengths).best_pair(8) == pair


@pytest.mark.invariant("PACK-003")
@pytest.mark.parametrize("room", [10, 11])
def test_among_equal_pairs_the_one_nearest_to_half_is_taken(room):
    assert sorted(LengthPool([2, 4, 6, 8]).best_pair(room)) == [4, 6]


@pytest.mark.invariant("PACK-003")
@given(LENGTHS, st.floats(0, 25))
def test_the_nearest_length_is_the_next_one_up_or_the_longest(lengths, value):
    larger = [length for length in lengths if length >= value]
    assert LengthPool(lengths).nearest(value) == min(larger, default=max(lengths))


@pytest.mark.invariant("PACK-003")
@pytest.mark.parametrize(
    ("lengths", "room", "chosen"),
    [
        ([4, 5, 6], 3, ()),
        ([4, 5, 6], 13, (5,)),
        ([4, 5, 6], 12, (5, 6)),
        ([6, 3, 3], 7, (6,)),
        ([6, 3, 4], 7, (3, 4)),
        ([9, 1, 1, 1], 8, (1,)),
    ],
    ids=["nothing fits", "room for an average one", "a pair", "no equal pair", "a better pair", "a small one"],
)
def test_a_row_takes_average_lengths_and_closes_with_what_fills_it_best(lengths, room, chosen):
    assert tuple(sorted(choose_next(LengthPool(lengths), room))) == chosen


@pytest.mark.invariant("PACK-001")
def test_a_plan_knows_its_cap():
    assert build_plan([3, 5], 8).cap == 8
