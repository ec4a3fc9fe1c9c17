"""Validation records in, `rollout/*` of the model's own answers out: the evaluation step of stage 2. TRAIN-032.

What it says of a model is what `evaluate` says of the checkpoint saved at that step: the same requests, the same parse,
the same evaluator.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch.distributed as dist

from coordexp.coordjson import DROP_REASONS
from coordexp.evaluation.coco import evaluate_fast
from coordexp.evaluation.detections import build_answer_parser, build_truths
from coordexp.evaluation.runner import Scoring, score_outputs
from coordexp.evaluation.summary import show_progress
from coordexp.evaluation.types import CocoMetrics
from coordexp.matching.duplicates import count_near_duplicates
from coordexp.metrics.accumulator import MetricAccumulator
from coordexp.rollout.requests import build_requests, check_prompts
from coordexp.rollout.seeding import evaluation_seed_base
from coordexp.training.order import part_of_step

if TYPE_CHECKING:
    from coordexp.config.rollout_sections import EvalDetectionConfig
    from coordexp.data.run_inputs import RunSamples
    from coordexp.data.types import Record
    from coordexp.encode.encoder import Encoder
    from coordexp.evaluation.detections import ScoreMode
    from coordexp.evaluation.runner import Scored
    from coordexp.evaluation.types import ImagePrediction, ImageTruth
    from coordexp.metrics.accumulator import State
    from coordexp.rollout.types import Decoding, RolloutBackend, RolloutOutput
    from coordexp.training.types import Shard

_LOG = logging.getLogger(__name__)
_FAILURES = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)
"""What pycocotools and numpy raise over numbers that they cannot digest."""
Dump = Callable[[int, "Scored", Sequence["Record"], Sequence["RolloutOutput"]], "State"]
"""Takes the evaluation after so many steps, its records and its outputs; what that came to, by metric key."""
_NO_COCO, _FAILED_COCO = CocoMetrics({}, {}), CocoMetrics({"mAP": 0.0}, {})


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How the answers are drawn (each evaluation by the same seeds) and scored; `coco` says whether mAP is wanted."""

    decoding: Decoding
    coco: bool
    score_mode: ScoreMode
    constant_score: float


class RolloutEvaluation:
    """Answers the validation records with the model as it is, over the ranks, and compares them with the truth.

    `dump`, where there is one, writes some of the answers out on rank 0.
    """

    dump: Dump | None = None

    def __init__(
        self,
        backend: RolloutBackend,
        encoder: Encoder,
        samples: RunSamples,
        settings: EvaluationSettings,
        shard: Shard,
    ) -> None:
        self.backend, self.settings = backend, settings
        # A record that is drawn twice is an image that is evaluated once.
        self.records = tuple({record.source: record for record in samples.records}.values())
        self._encoder, self._image_root, self._shard = encoder, samples.file.image_root, shard
        self._parser = build_answer_parser(encoder)
        self._truth = build_truths(self.records, encoder)

    def evaluate(self, step: int) -> State:
        """What this rank adds to the evaluation's metrics. A collective: every rank calls it.

        Raises what generating raises; a failure of COCO's evaluation is a warning, and mAP 0.
        """
        self.backend.sync(step)
        observed = MetricAccumulator()
        outputs = self._gather(self._generate(observed))
        observed.merge(self.backend.take_observed())
        observed.add("rollout/repeat_terminate_active", float(self.backend.settings.repeat_terminate))
        if self._shard.rank == 0:
            scored = self._observe(observed, outputs)
            if self.dump is not None:
                observed.merge(self.dump(step, scored, self.records, outputs))
        return observed.state()

    def _generate(self, observed: MetricAccumulator) -> list[RolloutOutput]:
        first, records = part_of_step(self.records, self._shard)
        requests = build_requests(records, self._encoder, self._image_root, first)
        started = perf_counter()
        with show_progress("evaluating") if self._shard.rank == 0 else nullcontext() as progress:
            outputs = self.backend.generate(requests, self.settings.decoding, progress)
        observed.add("time/rollout_generate_s", perf_counter() - started)
        return check_prompts(requests, outputs)

    def _gather(self, outputs: list[RolloutOutput]) -> list[RolloutOutput]:
        """The outputs of all ranks, in the records' order."""
        if not dist.is_initialized():
            return outputs
        parts: list[list[RolloutOutput]] = [[] for _ in range(self._shard.world_size)]
        dist.all_gather_object(parts, outputs)
        return [output for part in parts for output in part]

    def _observe(self, observed: MetricAccumulator, outputs: Sequence[RolloutOutput]) -> Scored:
        settings = self.settings
        scored = score_outputs(
            self._parser,
            self._truth,
            outputs,
            Scoring(settings.score_mode, settings.constant_score),
            coco=guarded_coco if settings.coco else skipped_coco,
        )
        counts = scored.report.detection
        hits, wrong, missed = counts.true_positives, counts.false_positives, counts.false_negatives
        observed.add_ratio("rollout/precision", hits, hits + wrong)
        observed.add_ratio("rollout/recall", hits, hits + missed)
        observed.add_ratio("rollout/f1", 2 * hits, 2 * hits + wrong + missed)
        if settings.coco:
            observed.add("rollout/mAP", scored.report.coco.summary["mAP"] or 0.0)
        _observe_answers(observed, scored, outputs)
        truth_length = sum(image.answer_tokens or 0 for image in self._truth)
        written = [len(output.response_token_ids) for output in outputs]
        observed.add_ratio("rollout/gt_tokens_mean", truth_length, len(outputs))
        observed.add_ratio("rollout/gen_new_tokens_mean", sum(written), len(outputs))
        observed.add_ratio("rollout/length_ratio", sum(written), truth_length)
        observed.add("rollout/gen_new_tokens_p99", float(np.percentile(written, 99)))
        return scored


def _observe_answers(observed: MetricAccumulator, scored: Scored, outputs: Sequence[RolloutOutput]) -> None:
    """What the answers hold, whether right or wrong."""
    report, images = scored.report, len(outputs)
    tally = report.parses
    copies = [count_near_duplicates(found.item for found in answer.parse.objects) for answer in scored.predictions]
    totals = {
        "samples_total": images,
        "gt_objects_total": report.ground_truth_objects,
        "valid_pred_objects_total": tally.found,
        "invalid_rollouts_total": tally.invalid_rollouts,
        "malformed_tails_total": tally.malformed_tails,
        "parse_dropped_invalid": tally.sought - tally.found,
        **{f"parse_dropped/{reason}_total": tally.dropped[reason] for reason in DROP_REASONS},
        "near_duplicates_total": sum(found.objects for found in copies),
        "near_duplicate_pairs_total": sum(found.pairs for found in copies),
        "repeat_terminate_triggered_sequences": sum(output.repeat_terminated for output in outputs),
    }
    rates = {
        "gt_per_sample": report.ground_truth_objects,
        "pred_per_sample": tally.found,
        "parse_rate": tally.strict,
        "parse_truncated_rate": sum(
            answer.parse.truncated or output.repeat_terminated
            for answer, output in zip(scored.predictions, outputs, strict=True)
        ),
        "token_limit_rate": report.token_limit,
    }
    for name, value in totals.items():
        observed.add(f"rollout/{name}", value)
    for name, value in rates.items():
        observed.add_ratio(f"rollout/{name}", value, images)


def guarded_coco(truth: Sequence[ImageTruth], answers: Mapping[str, ImagePrediction]) -> CocoMetrics:
    """COCO's numbers; an AP of 0 with a warning where its evaluation fails, because training goes on (REG-6B.3)."""
    try:
        return evaluate_fast(truth, answers)
    except _FAILURES as error:
        _LOG.warning("COCO's evaluation failed, so rollout/mAP is 0.0: %s", error, exc_info=True)
        return _FAILED_COCO


def skipped_coco(truth: Sequence[ImageTruth], answers: Mapping[str, ImagePrediction]) -> CocoMetrics:
    """No numbers: `eval_detection.enabled` is false."""
    return _NO_COCO


def build_evaluation_settings(
    decoding: Decoding, config: EvalDetectionConfig, training_seed: int
) -> EvaluationSettings:
    """The settings of a run's evaluations."""
    seeded = dataclasses.replace(decoding, seed_base=evaluation_seed_base(training_seed))
    return EvaluationSettings(seeded, config.enabled, config.score_mode, config.constant_score)
