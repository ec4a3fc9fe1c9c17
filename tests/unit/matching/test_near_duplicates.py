"""Near-copies within one answer: counted by name and box, once an object and once a pair."""

from __future__ import annotations

import time

import pytest

from coordexp.matching.duplicates import NearDuplicates, count_near_duplicates
from tests.unit.matching.reference import box, poly

pytestmark = pytest.mark.invariant("MATCH-009")


def test_three_copies_are_two_objects_and_three_pairs() -> None:
    assert count_near_duplicates([box(0, 0, 100, 100)] * 3) == NearDuplicates(objects=2, pairs=3)


def test_the_limit_is_an_iou_of_nine_tenths_of_boxes_in_bins() -> None:
    whole = box(0, 0, 100, 100)
    assert count_near_duplicates([whole, box(0, 0, 100, 90)]) == NearDuplicates(1, 1)
    assert count_near_duplicates([whole, box(0, 0, 100, 89)]) == NearDuplicates(0, 0)


def test_a_chain_counts_neighbours_only() -> None:
    chain = [box(0, 0, 100, 100), box(5, 0, 105, 100), box(10, 0, 110, 100)]
    assert count_near_duplicates(chain) == NearDuplicates(objects=2, pairs=2)


def test_an_object_counts_for_an_earlier_one_never_for_a_later_one() -> None:
    middle, left, right = box(50, 0, 150, 100), box(45, 0, 145, 100), box(55, 0, 155, 100)
    assert count_near_duplicates([middle, left, right]) == NearDuplicates(objects=2, pairs=2)
    assert count_near_duplicates([left, right, middle]) == NearDuplicates(objects=1, pairs=2)


def test_another_name_is_another_object() -> None:
    assert count_near_duplicates([box(0, 0, 9, 9, desc="cat"), box(0, 0, 9, 9, desc="dog")]) == NearDuplicates(0, 0)


def test_names_are_compared_composed() -> None:
    spellings = [box(0, 0, 9, 9, desc="caf\u00e9"), box(0, 0, 9, 9, desc="cafe\u0301")]
    assert count_near_duplicates(spellings) == NearDuplicates(1, 1)
    assert count_near_duplicates([spellings[0], box(0, 0, 9, 9, desc="Caf\u00e9")]) == NearDuplicates(0, 0)


def test_equal_boxes_without_area_are_copies_and_others_are_not() -> None:
    assert count_near_duplicates([box(5, 5, 5, 5), box(5, 5, 5, 5), box(5, 6, 5, 6)]) == NearDuplicates(1, 1)


def test_a_polygon_counts_by_the_box_around_it() -> None:
    assert count_near_duplicates([poly(0, 0, 100, 0, 0, 100), box(0, 0, 100, 100)]) == NearDuplicates(1, 1)


def test_an_answer_without_objects_has_none() -> None:
    assert count_near_duplicates([]) == NearDuplicates(0, 0)


def test_a_thousand_objects_of_many_names_take_no_time() -> None:
    objects = [box(k, k, k + 9, k + 9, desc=f"thing {k // 4}") for k in range(960)]
    start = time.process_time()
    assert count_near_duplicates(objects) == NearDuplicates(0, 0)
    assert time.process_time() - start < 1.0
