"""One-to-one matching of an image's predictions with its ground truth at IoU >= 0.5. EVAL-001, EVAL-002, MATCH-007.

Per description (or over all, for localization) the assignment has as many pairs as possible, and among those the
largest sum of IoU. Scores play no part, so counts do not depend on the order of images, objects or predictions. What is
not scored, regions and categories that nobody looked for, counts neither way (EVAL-040, EVAL-041).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coordexp.evaluation.types import IOU_THRESHOLD, Detection, MatchCounts
from coordexp.geometry.boxes import pairwise_coverage, pairwise_iou
from coordexp.matching.assignment import FORBIDDEN, assign
from coordexp.matching.types import Match

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from coordexp.data.regions import IgnoreRegion
    from coordexp.evaluation.types import ImageTruth

REGION_COVERAGE = 0.5
"""Lowest share of a prediction's own area inside a region at which the region stands for it."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of an image's predictions: with whom each is matched, and the numbers of those that count neither
    way. All others are false positives.
    """

    matches: tuple[Match, ...]
    ignored: frozenset[int] = frozenset()

    def count(self, objects: int, predictions: int) -> MatchCounts:
        """TP, FP and FN of so many annotated objects and predictions."""
        pairs, aside = len(self.matches), len(self.ignored)
        return MatchCounts(pairs, predictions - pairs - aside, objects - pairs, aside)


def judge_image(image: ImageTruth, predictions: Sequence[Detection]) -> Judgement:
    """What became of each of `predictions`; those in a region, or of a category that nobody looked for, count neither
    way.
    """
    matches = match_image(image.objects, predictions)
    aside = {number for number, one in enumerate(predictions) if not scored_predictions(image, [one])}
    inside = ignored_predictions(predictions, image.ignore, {match.prediction for match in matches})
    return Judgement(matches, inside | aside)


def match_image(
    truth: Sequence[Detection], predictions: Sequence[Detection], *, class_aware: bool = True
) -> tuple[Match, ...]:
    """Pairs of one image, ordered by prediction. With `class_aware` a pair also has the same description."""
    if not truth or not predictions:
        return ()
    iou = pairwise_iou([p.box for p in predictions], [t.box for t in truth])
    feasible = np.ones(iou.shape, dtype=bool)
    if class_aware:
        names, wanted = [p.desc for p in predictions], [t.desc for t in truth]
        feasible &= np.array([[name == want for want in wanted] for name in names])
    pairs = match_pairs(np.where(feasible, iou, -1.0), IOU_THRESHOLD)
    return tuple(Match(row, column, float(iou[row, column])) for row, column in pairs)


def match_pairs(iou: NDArray[np.float64], threshold: float) -> tuple[tuple[int, int], ...]:
    """Pairs (prediction, object) of `iou` [P, T] at or above `threshold`: as many as can be, of the largest IoU."""
    feasible = iou >= threshold
    if not feasible.any():
        return ()
    if feasible.sum(axis=0).max() == 1 and feasible.sum(axis=1).max() == 1:
        # Nobody has a choice, which is what most images are like.
        return tuple(zip(*(places.tolist() for places in np.nonzero(feasible)), strict=True))
    # Leaving one pair more alone costs more than all pairs can together, so the number of pairs comes first.
    alone = min(iou.shape) + 1.0
    return assign(np.where(feasible, 1.0 - iou, FORBIDDEN), alone, alone)


def count_matches(
    truth: Sequence[Detection],
    predictions: Sequence[Detection],
    *,
    class_aware: bool = True,
    regions: Sequence[IgnoreRegion] = (),
) -> MatchCounts:
    """TP, FP and FN of one image: every prediction left alone is FP unless a region stands for it, every object left
    alone FN.
    """
    matches = match_image(truth, predictions, class_aware=class_aware)
    taken = {match.prediction for match in matches}
    ignored = len(ignored_predictions(predictions, regions, taken, class_aware=class_aware))
    pairs = len(matches)
    return MatchCounts(pairs, len(predictions) - pairs - ignored, len(truth) - pairs, ignored)


def ignored_predictions(
    predictions: Sequence[Detection],
    regions: Sequence[IgnoreRegion],
    matched: Collection[int],
    *,
    class_aware: bool = True,
) -> frozenset[int]:
    """Numbers of the predictions, but for those `matched`, of which half or more lies in one region.

    With `class_aware` the region is of their description or of any; otherwise every region counts.
    """
    if not predictions or not regions:
        return frozenset()
    inside = pairwise_coverage([p.box for p in predictions], [r.box for r in regions]) >= REGION_COVERAGE
    if class_aware:
        inside &= np.array([[region.desc in (None, p.desc) for region in regions] for p in predictions])
    return frozenset(int(number) for number in np.flatnonzero(inside.any(axis=1)) if number not in matched)


def scored_predictions(image: ImageTruth, predictions: Sequence[Detection]) -> tuple[Detection, ...]:
    """`predictions` without those of categories that nobody looked for in the image."""
    if image.verified_absent is None:
        return tuple(predictions)
    looked_for = {obj.desc for obj in image.objects} | {region.desc for region in image.ignore} | image.verified_absent
    return tuple(found for found in predictions if found.desc in looked_for)
