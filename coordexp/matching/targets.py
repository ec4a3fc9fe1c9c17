"""A parsed rollout and its matching in, the plan of its teacher-forced target out. Contract ids: TGT-001..TGT-003.

The prefix keeps what the rollout wrote; what it missed follows in the order of the ground truth. Light: ids and types
are the encoder's business.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from coordexp.coordjson import NO_CUT, ParsedObject, keep_elements
from coordexp.encode.types import Fate, TargetPlan, TokenSubset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coordexp.coordjson import ParsedRollout
    from coordexp.coords.types import CoordObject
    from coordexp.matching.types import MatchResult

_FALSE_POSITIVE, _DROPPED = Fate(TokenSubset.FP), Fate(TokenSubset.DROPPED)


def plan_target(
    response: Sequence[int], parsed: ParsedRollout, truths: Sequence[CoordObject], result: MatchResult
) -> TargetPlan:
    """The target of a response: `result` pairs `parsed.objects` with `truths` (in the order of the answer).

    Elements that `parsed` no longer holds (a shorter prefix) were false positives, dropped, or matched: what they
    matched is missed.
    """
    truth_of = {match.prediction: match.truth for match in result.matched}
    fates, reached, prediction = [], set(), 0
    for element in parsed.elements:
        if not isinstance(element, ParsedObject):
            fates.append(_DROPPED)
            continue
        truth = truth_of.get(prediction)
        prediction += 1
        if truth is None:
            fates.append(_FALSE_POSITIVE)
        else:
            reached.add(truth)
            fates.append(Fate(TokenSubset.MATCHED, truths[truth].bins))
    missed = tuple(item for index, item in enumerate(truths) if index not in reached)
    return TargetPlan(tuple(response), parsed, tuple(fates), missed)


def fit_target(
    plan: TargetPlan, shorten: Callable[[int], TargetPlan], fits: Callable[[TargetPlan], bool]
) -> TargetPlan:
    """`plan`, or the longest one with fewer elements that `fits`: whole objects leave the prefix from its end.

    `shorten(count)` plans the target with the first `count` elements. The plan without any is that of ground truth
    behind the rollout's own opening, and is returned whether it fits or not.
    """
    count = len(plan.parsed.elements)
    while count and not fits(plan):
        count -= 1
        plan = shorten(count)
    return plan


def shortened(plan_of: Callable[[ParsedRollout], TargetPlan], parsed: ParsedRollout) -> Callable[[int], TargetPlan]:
    """What `fit_target` shortens with: the plan of the rollout's first elements."""
    return lambda count: plan_of(keep_elements(parsed, count))


def without_prefix(parsed: ParsedRollout) -> ParsedRollout:
    """The parse of which nothing is kept, as of an invalid rollout: its target is ground truth's own answer."""
    return dataclasses.replace(parsed, elements=(), opening=NO_CUT, invalid_rollout=True)
