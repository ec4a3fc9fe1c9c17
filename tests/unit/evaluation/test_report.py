"""The report: counts, unknown names, splits, and inputs that do not belong together."""

from __future__ import annotations

import pytest

from coordexp.evaluation.report import EvaluationError, evaluate_detections, render_report
from coordexp.evaluation.types import Detection, ImagePrediction, ImageTruth

CAT, DOG, COW = (Detection(name, (0, 0, 40, 40)) for name in ("cat", "dog", "cow"))
FAR = Detection("cat", (60, 60, 90, 90))


def image(sample: str, *objects: Detection, split: str | None = None) -> ImageTruth:
    return ImageTruth(sample, 100, 100, objects, split)


@pytest.mark.invariant("EVAL-011")
def test_a_name_that_no_ground_truth_has_is_counted_and_stays_wrong():
    report = evaluate_detections([image("a", CAT)], [ImagePrediction("a", (CAT, COW))])
    assert report.unknown_desc == 1
    assert report.detection.false_positives == 1
    assert report.detection.precision == 0.5
    assert report.coco.summary["mAP"] == pytest.approx(1.0)


@pytest.mark.invariant("EVAL-006")
def test_unparsable_answers_are_counted_by_reason_and_their_objects_are_missed():
    predictions = [
        ImagePrediction("a", (CAT,)),
        ImagePrediction("b", (), "syntax", "…"),
        ImagePrediction("c", (), "syntax", "…", truncated=True),
        ImagePrediction("d", (), "wrong_arity", "…"),
    ]
    report = evaluate_detections([image(sample, CAT) for sample in "abcd"], predictions)
    assert (report.parsed, report.parse_rate, report.truncated) == (1, 0.25, 1)
    assert report.parse_failures == {"syntax": 2, "wrong_arity": 1}
    assert report.detection.false_negatives == 3


@pytest.mark.invariant("EVAL-006")
def test_objects_that_a_parser_left_out_are_summed_by_reason():
    predictions = [
        ImagePrediction("a", (), dropped={"wrong_arity": 2}),
        ImagePrediction("b", (), dropped={"wrong_arity": 1}),
    ]
    assert evaluate_detections([image("a"), image("b")], predictions).dropped_objects == {"wrong_arity": 3}


@pytest.mark.invariant("EVAL-013")
def test_each_split_is_reported_as_if_it_were_alone():
    truth = [image("a", CAT, split="plain"), image("b", CAT, FAR, split="crowded"), image("c", DOG)]
    predictions = [ImagePrediction("a", (CAT,)), ImagePrediction("b", (CAT,)), ImagePrediction("c", (), "syntax", "…")]
    report = evaluate_detections(truth, predictions)
    assert set(report.splits) == {"plain", "crowded"}
    assert report.splits["crowded"] == evaluate_detections([image("b", CAT, FAR)], predictions[1:2])
    assert report.splits["plain"].detection.f1 == 1.0
    assert report.images == 3
    assert render_report(report)["splits"]["crowded"]["detection"]["recall"] == 0.5


@pytest.mark.invariant("EVAL-009")
@pytest.mark.parametrize(
    ("truth", "predictions", "message"),
    [
        (["a", "b"], ["a"], "1 samples have no prediction, first 'b'"),
        (["a"], ["a", "b"], "1 samples have no ground truth, first 'b'"),
        (["a", "a"], ["a"], "more than one image, first 'a'"),
        (["a"], ["a", "a"], "more than one prediction, first 'a'"),
    ],
)
def test_sides_that_do_not_belong_together_are_refused(truth, predictions, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate_detections([image(s, CAT) for s in truth], [ImagePrediction(s, ()) for s in predictions])


def test_per_class_counts_add_up_to_the_whole():
    truth = [image("a", CAT, DOG, FAR)]
    report = evaluate_detections(truth, [ImagePrediction("a", (CAT, Detection("dog", (70, 0, 90, 20))))])
    total = sum((counts for counts in report.per_class.values()), start=type(report.detection)(0, 0, 0))
    assert total == report.detection
