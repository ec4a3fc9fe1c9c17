"""The plan of a rollout's target: what becomes of each element, what is missed, and what a limit takes away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from coordexp.coordjson import NO_CUT
from coordexp.coords.types import CoordObject
from coordexp.encode.types import Fate, TargetPlan, TokenSubset
from coordexp.matching.targets import fit_target, plan_target, shorten_prefix, without_prefix
from coordexp.matching.types import Match, MatchResult
from tests.unit.coordjson.toy_rollouts import ToyTokens

BOX = '"bbox_2d": [<|coord_1|>, <|coord_2|>, <|coord_3|>, <|coord_4|>]'
GOOD, BAD = f'{{"desc": "cat", {BOX}}}', '{"desc": "cat"}'
TRUTHS = [CoordObject(f"thing {number}", "bbox_2d", (number, number, number + 9, number + 9)) for number in range(4)]
MATCHED, FP, DROPPED = TokenSubset.MATCHED, TokenSubset.FP, TokenSubset.DROPPED


def result(*pairs: tuple[int, int]) -> MatchResult:
    return MatchResult(tuple(Match(prediction, truth, 1.0) for prediction, truth in pairs), (), (), 0)


def plan(*elements: str, pairs: Sequence[tuple[int, int]] = ()) -> TargetPlan:
    toy = ToyTokens(['{"objects": [', ", ".join(elements)])
    return plan_target(toy.ids, toy.parse(), TRUTHS, result(*pairs))


@pytest.mark.invariant("TGT-001")
def test_predictions_are_counted_among_the_valid_objects() -> None:
    found = plan(BAD, GOOD, BAD, GOOD, GOOD, pairs=[(0, 2), (2, 0)])
    assert found.fates == (Fate(DROPPED), Fate(MATCHED, 2), Fate(DROPPED), Fate(FP), Fate(MATCHED, 0))


@pytest.mark.invariant("TGT-001")
def test_what_is_missed_keeps_the_order_of_the_ground_truth() -> None:
    assert plan(GOOD, GOOD, pairs=[(0, 2), (1, 0)]).missed == (TRUTHS[1], TRUTHS[3])
    assert plan(GOOD, BAD).missed == tuple(TRUTHS)
    assert plan(*[GOOD] * 4, pairs=[(0, 3), (1, 2), (2, 1), (3, 0)]).missed == ()


@pytest.mark.invariant("TGT-001")
def test_equal_ground_truths_are_told_apart_by_their_place() -> None:
    toy = ToyTokens([f'{{"objects": [{GOOD}'])
    twins = [TRUTHS[0], TRUTHS[0]]
    assert plan_target(toy.ids, toy.parse(), twins, result((0, 1))).missed == (TRUTHS[0],)


@pytest.mark.invariant("TGT-007")
def test_a_matched_object_that_leaves_the_prefix_is_missed_again() -> None:
    whole = plan(GOOD, BAD, GOOD, pairs=[(0, 3), (1, 1)])
    assert [shorten_prefix(whole, count).missed for count in (3, 2, 1, 0)] == [
        (TRUTHS[0], TRUTHS[2]),
        (TRUTHS[0], TRUTHS[1], TRUTHS[2]),
        (TRUTHS[0], TRUTHS[1], TRUTHS[2]),
        tuple(TRUTHS),
    ]
    shorter = shorten_prefix(whole, 1)
    assert (shorter.fates, len(shorter.parsed.elements)) == ((Fate(MATCHED, 3),), 1)
    assert (shorter.response, shorter.truths) == (whole.response, whole.truths)


@pytest.mark.invariant("TGT-007")
@pytest.mark.parametrize(
    ("lengths", "kept"),
    [([9, 5, 5, 5], 3), ([10, 9, 5, 5], 2), ([10, 11, 9, 1], 1), ([12, 10, 13, 9], 0), ([9, 99, 99, 99], 3)],
)
def test_the_longest_that_fits_is_kept(lengths: list[int], kept: int) -> None:
    """Lengths need not fall with the elements: a short matched one may come back as a long missed one."""
    whole = plan(GOOD, BAD, GOOD, pairs=[(0, 3), (1, 1)])
    found = fit_target(whole, 9, lambda _: lengths)
    assert found == shorten_prefix(whole, kept)


@pytest.mark.invariant("TGT-007")
def test_no_length_is_asked_for_beyond_the_first_that_fits() -> None:
    def lengths(_: TargetPlan) -> Iterator[int]:
        yield 12
        yield 9
        raise AssertionError("one too many")

    assert len(fit_target(plan(GOOD, BAD, GOOD), 9, lengths).fates) == 2


@pytest.mark.invariant("TGT-007")
def test_where_even_the_opening_is_too_long_nothing_is_kept() -> None:
    whole = plan(GOOD, GOOD, pairs=[(0, 1)])
    found = fit_target(whole, 9, lambda _: [10, 10, 10])
    assert found == without_prefix(whole)
    assert (found.fates, found.missed, found.parsed.prefix) == ((), tuple(TRUTHS), NO_CUT)
    assert found.parsed.invalid_rollout and not whole.parsed.invalid_rollout
