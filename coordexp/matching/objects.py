"""An answer's objects against the ground truth: who is matched, wrong or missed. Contract ids: MATCH-001 to MATCH-007.

In: objects in bins and the knobs of `rollout_matching`; out: a `MatchResult`. Descriptions play no part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coordexp.matching.assignment import FORBIDDEN, assign
from coordexp.matching.costs import choose_candidates, mask_overlaps
from coordexp.matching.types import Match, MatchResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.coords.types import CoordObject
    from coordexp.matching.types import MatchSettings


def match_objects(
    predictions: Sequence[CoordObject], truths: Sequence[CoordObject], settings: MatchSettings
) -> MatchResult:
    """The pairing of `predictions` with `truths` (boxes or polygons in bins) of least total cost.

    A prediction pairs only with its candidates (`choose_candidates`), and only where their mask IoU is above 0 and at
    least the gate. That is settled first; the assignment then weighs 1 - IoU of each pair against `fp_cost` and
    `fn_cost` of leaving both alone, which takes pairs of IoU above 1 - fp_cost - fn_cost. What it does between equal
    totals is told in `assign`.
    """
    if not predictions or not truths:
        return MatchResult((), tuple(range(len(predictions))), tuple(range(len(truths))), 0)
    chosen = choose_candidates(predictions, truths, settings.candidate_top_k)
    iou = mask_overlaps(predictions, truths, settings.maskiou_resolution)
    feasible = chosen & (iou >= settings.maskiou_gate) & (iou > 0)
    pairs = assign(np.where(feasible, 1.0 - iou, FORBIDDEN), settings.fp_cost, settings.fn_cost)
    found, met = {row for row, _ in pairs}, {column for _, column in pairs}
    return MatchResult(
        matched=tuple(Match(row, column, float(iou[row, column])) for row, column in pairs),
        false_positives=tuple(row for row in range(len(predictions)) if row not in found),
        false_negatives=tuple(column for column in range(len(truths)) if column not in met),
        gated=int(chosen.sum() - feasible.sum()),
    )
