"""Ground truth and predictions in, one report out; its document form is `coordexp:evaluation-report`.

Contract ids: EVAL-001..EVAL-009, EVAL-013, EVAL-016, EVAL-022, EVAL-040, EVAL-041.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coordexp.coordjson import tally_rollouts
from coordexp.evaluation.coco import engine_version, evaluate_coco
from coordexp.evaluation.collecting import without_collecting
from coordexp.evaluation.lengths import measure_lengths
from coordexp.evaluation.matching import count_matches, scored_predictions
from coordexp.evaluation.measures import ImageMeasures, MeasureTally, measure_image
from coordexp.evaluation.names import count_names, most_frequent
from coordexp.evaluation.recall import measure_samples
from coordexp.evaluation.types import (
    AnswerLengths,
    Ceiling,
    CocoMetrics,
    DetectionReport,
    ImagePrediction,
    ImageTruth,
    MatchCounts,
    Measures,
    NameCounts,
    SampledRecall,
    ScorePolicy,
    TruthKind,
)
from coordexp.spec import check

CocoEvaluator = Callable[[Sequence[ImageTruth], Mapping[str, ImagePrediction]], CocoMetrics]
"""COCO's numbers of images and their predictions, by sample id."""
SCHEMA_VERSION = 1
NAMES_LISTED = 20
"""Descriptions without a category that a report lists, the most frequent first; all are counted."""
_NOTHING = MatchCounts(0, 0, 0)


class EvaluationError(ValueError):
    """Ground truth and predictions that do not belong together."""


@without_collecting()
def evaluate_detections(
    ground_truth: Sequence[ImageTruth],
    predictions: Sequence[ImagePrediction],
    *,
    score_mode: ScorePolicy = "constant",
    samples: Sequence[Sequence[ImagePrediction]] = (),
    coco: CocoEvaluator = evaluate_coco,
) -> DetectionReport:
    """Compare every image's predictions with its ground truth; the order of either sequence plays no part.

    `score_mode` says where the scores come from and is recorded; `coco` computes COCO's numbers. Each of `samples`
    holds a sampled answer for every image; recall alone is measured on them. Images that name a split are also reported
    per split. Raises `EvaluationError` unless each image has exactly one prediction and each prediction its image.
    """
    answers = _by_sample(ground_truth, predictions)
    sampled = [_by_sample(ground_truth, sample) for sample in samples]
    measured = {image.sample_id: _measure(image, answers[image.sample_id]) for image in ground_truth}
    splits = {}
    for name in sorted({image.split for image in ground_truth if image.split is not None}):
        part = [image for image in ground_truth if image.split == name]
        chosen = {image.sample_id: answers[image.sample_id] for image in part}
        splits[name] = _compare(part, chosen, measured, coco(part, chosen), sampled, score_mode)
    whole = _compare(ground_truth, answers, measured, coco(ground_truth, answers), sampled, score_mode)
    return dataclasses.replace(whole, splits=splits)


def render_report(report: DetectionReport) -> dict[str, Any]:
    """The report as a JSON document that fits its contract; raises `ContractViolation` otherwise."""
    return check("evaluation-report", {"schema_version": SCHEMA_VERSION, **_document(report)})


def _compare(
    truth: Sequence[ImageTruth],
    answers: Mapping[str, ImagePrediction],
    measured: Mapping[str, _Measured],
    coco: CocoMetrics,
    samples: Sequence[Mapping[str, ImagePrediction]],
    score_mode: ScorePolicy,
) -> DetectionReport:
    known = {obj.desc for image in truth for obj in image.objects}
    annotated = known | {r.desc for image in truth for r in image.ignore}
    annotated |= {name for image in truth for name in image.verified_absent or ()}
    found = [detection for answer in answers.values() for detection in answer.detections]
    own = [measured[image.sample_id] for image in truth]
    tally = MeasureTally(one.measures for one in own)
    # By sample, so that the examples of faults do not depend on the order of the answers.
    written = [sample for sample in sorted(answers) if not answers[sample].made_elsewhere]
    return DetectionReport(
        images=len(truth),
        ground_truth_objects=sum(len(image.objects) for image in truth),
        predicted_objects=len(found),
        parses=tally_rollouts(answers[sample].parse for sample in written),
        token_limit=sum(answer.token_limit for answer in answers.values()),
        unknown_desc=sum(detection.desc not in annotated for detection in found),
        score_mode=score_mode,
        measures=tally.total(),
        localization=sum((one.localization for one in own), _NOTHING),
        class_measures=tally.measures_of(sorted(known)),
        coco=coco,
        lengths=measure_lengths(truth, answers.values()),
        regions=sum(len(image.ignore) for image in truth),
        left_out=len(found) - sum(len(one.measures.said) for one in own),
        truth=_kind(truth),
        samples=measure_samples(truth, answers, samples) if samples else None,
        names=count_names(answers.values()),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Measured:
    """What one image counts for in every part that it is of."""

    measures: ImageMeasures
    localization: MatchCounts


def _measure(image: ImageTruth, answer: ImagePrediction) -> _Measured:
    found = scored_predictions(image, answer.detections)
    boxes = count_matches(image.objects, found, class_aware=False, regions=image.ignore)
    return _Measured(measure_image(image, found), boxes)


def _kind(truth: Sequence[ImageTruth]) -> TruthKind:
    kinds = sorted({image.kind for image in truth})
    if len(kinds) > 1:
        raise EvaluationError("some images are compared with their records and some with an annotation file")
    return kinds[0] if kinds else "records"


def _by_sample(truth: Sequence[ImageTruth], predictions: Sequence[ImagePrediction]) -> dict[str, ImagePrediction]:
    """Predictions by sample id, one for each image and none beside."""
    for what, ids in (("image", [t.sample_id for t in truth]), ("prediction", [p.sample_id for p in predictions])):
        twice = [sample for sample, times in Counter(ids).items() if times > 1]
        if twice:
            raise EvaluationError(f"{len(twice)} sample ids have more than one {what}, first {twice[0]!r}")
    answers = {prediction.sample_id: prediction for prediction in predictions}
    wanted = {image.sample_id for image in truth}
    for what, lone in (("no prediction", wanted - set(answers)), ("no ground truth", set(answers) - wanted)):
        if lone:
            raise EvaluationError(
                f"{len(lone)} samples have {what}, first {min(lone)!r}; evaluate the same set on both sides"
            )
    return answers


def _document(report: DetectionReport) -> dict[str, Any]:
    return {
        **({} if report.samples is None else {"samples": _sample_document(report.samples)}),
        **({} if report.ceiling is None else {"ceiling": _ceiling_document(report.ceiling)}),
        **({} if report.names is None else {"names": _name_document(report.names)}),
        "truth": report.truth,
        "images": report.images,
        "ground_truth_objects": report.ground_truth_objects,
        "predicted_objects": report.predicted_objects,
        "parsed": report.parses.strict,
        "parse_rate": report.parse_rate,
        "invalid_rollouts": report.parses.invalid_rollouts,
        "truncated": report.parses.truncated,
        "truncated_rate": report.truncated_rate,
        "malformed_tails": report.parses.malformed_tails,
        "token_limit": report.token_limit,
        "unknown_desc": report.unknown_desc,
        "regions": report.regions,
        "left_out": report.left_out,
        "lengths": _length_document(report.lengths),
        "score_mode": report.score_mode,
        "coco_engine": {"name": report.coco.engine, "version": engine_version(report.coco.engine)},
        "parse_failure_rate": report.parse_failure_rate,
        "detection": _match_document(report.detection),
        "measures": _measure_document(report.measures),
        "localization": _match_document(report.localization),
        "coco": dict(report.coco.summary),
        "coco_limit": {"detections": report.coco.limit, "images_over": report.coco.images_over_limit},
        "coco_unlimited": dict(report.coco.unlimited),
        "per_class": _class_documents(report.class_measures, report.coco),
        "parse_failures": dict(report.parses.failures),
        "dropped_objects": dict(report.parses.dropped),
        "dropped_examples": {reason: list(shown) for reason, shown in report.parses.examples.items()},
        "splits": {name: _document(split) for name, split in report.splits.items()},
    }


def _length_document(lengths: AnswerLengths) -> dict[str, Any]:
    return {
        "generated_tokens_mean": lengths.generated,
        "ground_truth_tokens_mean": lengths.ground_truth,
        "ratio": lengths.ratio,
    }


def _name_document(names: NameCounts) -> dict[str, Any]:
    listed = most_frequent(names.unmapped, NAMES_LISTED)
    return {
        "exact": names.exact,
        "normalized": sum(names.normalized.values()),
        "unmapped": sum(names.unmapped.values()),
        "unmapped_descs": [{"desc": desc, "predictions": count} for desc, count in listed],
        "unmapped_descs_beyond": len(names.unmapped) - len(listed),
    }


def _ceiling_document(ceiling: Ceiling) -> dict[str, Any]:
    return {
        **ceiling.summary,
        "unlimited": dict(ceiling.unlimited),
        "f1": ceiling.f1,
        "objects_without_area": ceiling.without_area,
        "objects_unmatchable": ceiling.unmatchable,
        "images_over_limit": ceiling.images_over_limit,
    }


def _sample_document(samples: SampledRecall) -> dict[str, Any]:
    return {
        "count": len(samples.found),
        "greedy_recall": samples.greedy_recall,
        "recall": list(samples.recalls),
        "recall_mean": samples.mean_recall,
        "union_recall": list(samples.union_recalls),
        "seen_not_said": samples.seen_not_said,
        "not_seen": samples.not_seen,
        "parse_rate": samples.parse_rate,
        "truncated_rate": samples.truncated_rate,
        "lengths": _length_document(samples.lengths),
    }


def _match_document(counts: MatchCounts) -> dict[str, Any]:
    return {
        "true_positives": counts.true_positives,
        "false_positives": counts.false_positives,
        "false_negatives": counts.false_negatives,
        "ignored": counts.ignored,
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
    }


def _measure_document(measures: Measures) -> dict[str, Any]:
    return {
        "F1@0.5": measures.by_iou[0].f1,
        "F1@0.95": measures.f1_strict,
        "F1@mIoU": measures.f1_mean,
        "near_duplicates": measures.near_duplicates,
        "near_duplicate_rate": measures.near_duplicate_rate,
        "image_size_boxes": measures.image_size_boxes,
        "image_size_box_rate": measures.image_size_rate,
    }


def _class_documents(per_class: Mapping[str, Measures], coco: CocoMetrics) -> dict[str, Any]:
    documents = {}
    for name, measures in per_class.items():
        average, average50 = coco.per_class[name]
        documents[name] = {
            **_match_document(measures.by_iou[0]),
            "AP": average,
            "AP50": average50,
            **_measure_document(measures),
        }
    return documents
