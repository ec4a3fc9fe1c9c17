"""A parsed rollout and its matching in, the plan of its teacher-forced target out. Contract ids: TGT-001, TGT-007.

The prefix keeps what the rollout wrote; what it missed follows in the order of the ground truth. Light: ids and types
are the encoder's business.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from coordexp.coordjson import NO_CUT, ParsedObject, keep_elements
from coordexp.encode.types import Fate, TargetPlan, TokenSubset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from coordexp.coordjson import ParsedRollout
    from coordexp.coords.types import CoordObject
    from coordexp.matching.types import MatchResult


def plan_target(
    response: Sequence[int], parsed: ParsedRollout, truths: Sequence[CoordObject], result: MatchResult
) -> TargetPlan:
    """The target of a response: `result` pairs `parsed.objects` with `truths` (in the order of the answer)."""
    truth_of = {match.prediction: match.truth for match in result.matched}
    fates: list[Fate] = []
    prediction = 0
    for element in parsed.elements:
        if not isinstance(element, ParsedObject):
            fates.append(Fate(TokenSubset.DROPPED))
            continue
        truth = truth_of.get(prediction)
        prediction += 1
        fates.append(Fate(TokenSubset.FP if truth is None else TokenSubset.MATCHED, truth))
    return TargetPlan(tuple(response), parsed, tuple(fates), tuple(truths))


def shorten_prefix(plan: TargetPlan, count: int) -> TargetPlan:
    """The target with the prefix's first `count` elements: what the others matched is missed."""
    return replace(plan, parsed=keep_elements(plan.parsed, count), fates=plan.fates[:count])


def without_prefix(plan: TargetPlan) -> TargetPlan:
    """The target that keeps nothing of the response, as that of an invalid rollout: the ground truth's answer."""
    nothing = replace(plan.parsed, elements=(), opening=NO_CUT, invalid_rollout=True)
    return replace(plan, parsed=nothing, fates=())


def fit_target(plan: TargetPlan, limit: int, lengths: Callable[[TargetPlan], Iterable[int]]) -> TargetPlan:
    """`plan`, or the longest one of fewer elements whose answer has at most `limit` tokens.

    Whole objects leave the prefix from its end. `lengths` gives an answer's tokens with all elements, then with one
    fewer, down to none; they need not fall, since a matched object comes back as a missed one. Where even the opening
    (which may be mostly whitespace) is too long, nothing of the response is kept.
    """
    for kept, length in zip(range(len(plan.fates), -1, -1), lengths(plan), strict=True):
        if length <= limit:
            return plan if kept == len(plan.fates) else shorten_prefix(plan, kept)
    return without_prefix(plan)
