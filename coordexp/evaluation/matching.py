"""One-to-one matching of an image's predictions with its ground truth at IoU >= 0.5. EVAL-001, EVAL-002, MATCH-007.

Per description (or over all, for localization) the assignment has as many pairs as possible, and among those the
largest sum of IoU. Scores play no part, so counts do not depend on the order of images, objects or predictions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coordexp.evaluation.types import IOU_THRESHOLD, Detection, MatchCounts
from coordexp.geometry.boxes import pairwise_iou
from coordexp.matching.assignment import FORBIDDEN, assign
from coordexp.matching.types import Match

if TYPE_CHECKING:
    from collections.abc import Sequence


def match_image(
    truth: Sequence[Detection], predictions: Sequence[Detection], *, class_aware: bool = True
) -> tuple[Match, ...]:
    """Pairs of one image, ordered by prediction. With `class_aware` a pair also has the same description."""
    if not truth or not predictions:
        return ()
    iou = pairwise_iou([p.box for p in predictions], [t.box for t in truth])
    feasible = iou >= IOU_THRESHOLD
    if class_aware:
        names, wanted = [p.desc for p in predictions], [t.desc for t in truth]
        feasible &= np.array([[name == want for want in wanted] for name in names])
    # Leaving one pair more alone costs more than all pairs can together, so the number of pairs comes first.
    alone = min(iou.shape) + 1.0
    pairs = assign(np.where(feasible, 1.0 - iou, FORBIDDEN), alone, alone)
    return tuple(Match(row, column, float(iou[row, column])) for row, column in pairs)


def count_matches(
    truth: Sequence[Detection], predictions: Sequence[Detection], *, class_aware: bool = True
) -> MatchCounts:
    """TP, FP and FN of one image: every prediction left alone is FP, every object left alone FN."""
    pairs = len(match_image(truth, predictions, class_aware=class_aware))
    return MatchCounts(pairs, len(predictions) - pairs, len(truth) - pairs)
