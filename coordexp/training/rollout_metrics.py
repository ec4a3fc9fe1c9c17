"""Rollouts that a step trains on in, `rollout/*` observations out. TRAIN-031; keys and reductions are those
of contracts/metrics/metrics.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coordexp.coordjson import DROP_REASONS, tally_rollouts
from coordexp.matching.duplicates import count_near_duplicates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.coordjson import ParsedRollout
    from coordexp.encode.encoder import PreparedRecord
    from coordexp.encode.types import EncodedSample, TargetPlan
    from coordexp.matching.types import MatchResult
    from coordexp.metrics.accumulator import MetricAccumulator
    from coordexp.rollout.types import RolloutOutput

CLOSURES_LOST = "stage2_ab/channel_b/closure_supervision/N_drop"
"""Samples whose outermost closure is not where their target put it: they stay in the batch with zero weight."""


@dataclass(frozen=True, eq=False)
class TrainedRollout:
    """A record's rollout on its way: what was written, what it holds, whom it matches, and the sample trained on.

    `target` may keep fewer elements than `parsed` has, where the sample would be too long. `truth_length` is the tokens
    of the ground truth's own answer, with its `<|im_end|>`.
    """

    item: PreparedRecord
    output: RolloutOutput
    parsed: ParsedRollout
    result: MatchResult
    target: TargetPlan
    sample: EncodedSample
    truth_length: int
    closure_lost: bool = False

    @property
    def cut(self) -> int:
        """Elements of the rollout that left the prefix because the sample would be too long."""
        return len(self.parsed.elements) - len(self.target.parsed.elements)


def observe_rollouts(observed: MetricAccumulator, rollouts: Sequence[TrainedRollout]) -> None:
    """Add what a rank's rollouts of one step show; nothing without any."""
    count = len(rollouts)
    if not count:
        return
    totals = _totals(rollouts)
    for name, value in totals.items():
        observed.add(f"rollout/{name}", value)
    observed.add(CLOSURES_LOST, sum(rollout.closure_lost for rollout in rollouts))
    per_sample = {
        "gt_per_sample": totals["gt_objects_total"],
        "pred_per_sample": totals["valid_pred_objects_total"],
        "fn_appended_per_sample_mean": totals["fn_appended_total"],
        "parse_rate": sum(rollout.parsed.strict for rollout in rollouts),
        "parse_truncated_rate": sum(
            rollout.parsed.truncated or rollout.output.repeat_terminated for rollout in rollouts
        ),
        "token_limit_rate": sum(rollout.output.finish_reason == "length" for rollout in rollouts),
        "gen_new_tokens_mean": sum(_lengths(rollouts)),
        "gt_tokens_mean": sum(rollout.truth_length for rollout in rollouts),
    }
    for name, value in per_sample.items():
        observed.add_ratio(f"rollout/{name}", value, count)
    matched = [match.iou for rollout in rollouts for match in rollout.result.matched]
    observed.add_ratio("rollout/matched_maskiou_mean", sum(matched), len(matched))
    observed.add_ratio("rollout/match_precision", len(matched), totals["valid_pred_objects_total"])
    observed.add_ratio("rollout/match_recall", len(matched), totals["gt_objects_total"])
    observed.add_ratio("rollout/length_ratio", sum(_lengths(rollouts)), per_sample["gt_tokens_mean"])
    observed.add("rollout/gen_new_tokens_p99", float(np.percentile(_lengths(rollouts), 99)))


def _totals(rollouts: Sequence[TrainedRollout]) -> dict[str, int]:
    """Counters, by the part of their key after `rollout/`."""
    tally = tally_rollouts(rollout.parsed for rollout in rollouts)
    copies = [count_near_duplicates(found.item for found in rollout.parsed.objects) for rollout in rollouts]
    return {
        "samples_total": len(rollouts),
        "invalid_rollouts_total": tally.invalid_rollouts,
        "malformed_tails_total": tally.malformed_tails,
        "gt_objects_total": sum(len(rollout.item.record.objects) for rollout in rollouts),
        "valid_pred_objects_total": tally.found,
        "parse_dropped_invalid": tally.sought - tally.found,
        **{f"parse_dropped/{reason}_total": tally.dropped[reason] for reason in DROP_REASONS},
        "matched_total": sum(len(rollout.result.matched) for rollout in rollouts),
        "fp_total": sum(len(rollout.result.false_positives) for rollout in rollouts),
        "fn_total": sum(len(rollout.result.false_negatives) for rollout in rollouts),
        "gated_pairs_total": sum(rollout.result.gated for rollout in rollouts),
        "fn_appended_total": sum(len(rollout.target.missed) for rollout in rollouts),
        "prefix_objects_cut_total": sum(rollout.cut for rollout in rollouts),
        "near_duplicates_total": sum(found.objects for found in copies),
        "near_duplicate_pairs_total": sum(found.pairs for found in copies),
        "repeat_terminate_triggered_sequences": sum(rollout.output.repeat_terminated for rollout in rollouts),
    }


def _lengths(rollouts: Sequence[TrainedRollout]) -> list[int]:
    """Tokens written, with the stop token where there is one."""
    return [len(rollout.output.response_token_ids) for rollout in rollouts]
