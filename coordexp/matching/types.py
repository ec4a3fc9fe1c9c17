"""What matching is told and what it finds. Contract ids: MATCH-*."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordexp.config.rollout_sections import RolloutMatchingConfig


@dataclass(frozen=True, slots=True)
class MatchSettings:
    """What decides a matching: the knobs of `rollout_matching` under their own names.

    `candidate_top_k` candidates are kept for a prediction, masks lie on a canvas of `maskiou_resolution` pixels a side,
    a pair below `maskiou_gate` is none. Leaving a prediction alone costs `fp_cost`, a ground truth `fn_cost`, a pair
    1 - mask IoU: all in the same unit.
    """

    candidate_top_k: int
    maskiou_gate: float
    maskiou_resolution: int
    fp_cost: float
    fn_cost: float


@dataclass(frozen=True, slots=True)
class Match:
    """Prediction `prediction` is ground truth `truth` (indices into the sequences given), overlapping by `iou`."""

    prediction: int
    truth: int
    iou: float


@dataclass(frozen=True, slots=True)
class MatchResult:
    """How one answer's predictions and its ground truth pair up.

    `matched` is ordered by prediction; `false_positives` are the predictions left alone and `false_negatives` the
    ground truth left alone, ascending. `gated` counts candidate pairs that no assignment may choose, for their IoU.
    """

    matched: tuple[Match, ...]
    false_positives: tuple[int, ...]
    false_negatives: tuple[int, ...]
    gated: int


def build_settings(config: RolloutMatchingConfig) -> MatchSettings:
    """The matching part of a configuration's `rollout_matching`."""
    return MatchSettings(
        candidate_top_k=config.candidate_top_k,
        maskiou_gate=config.maskiou_gate,
        maskiou_resolution=config.maskiou_resolution,
        fp_cost=config.fp_cost,
        fn_cost=config.fn_cost,
    )
