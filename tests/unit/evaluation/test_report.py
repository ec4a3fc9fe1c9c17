"""The report: counts, unknown names, splits, and inputs that do not belong together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordexp.coordjson import DROP_REASONS, NO_CUT, DroppedObject, ParsedRollout
from coordexp.evaluation.report import EvaluationError, evaluate_detections, render_report
from coordexp.evaluation.summary import build_summary_table
from coordexp.evaluation.types import NO_ANSWER, Detection, ImagePrediction, ImageTruth, MatchCounts

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


def failed(failure: str, *reasons: str, **flags: bool) -> ParsedRollout:
    """The parse of an answer that dropped one object for each reason."""
    dropped = tuple(DroppedObject(reason, (0, 1), 0, NO_CUT, (0, 1), f"what is {reason}") for reason in reasons)
    return replace(NO_ANSWER, elements=dropped, failure=failure, **flags)


@pytest.mark.invariant("EVAL-006")
def test_answers_are_counted_by_their_first_fault_and_what_they_lack_is_missed() -> None:
    predictions = [
        ImagePrediction("a", (CAT,)),
        ImagePrediction("b", (), failed("invalid_rollout", invalid_rollout=True)),
        ImagePrediction("c", (CAT,), failed("truncated", truncated=True), token_limit=True),
        ImagePrediction("d", (), failed("wrong_arity", "wrong_arity", malformed_tail=True)),
    ]
    report = evaluate_detections([image(sample, CAT) for sample in "abcd"], predictions)
    assert (report.parses.strict, report.parse_rate, report.token_limit) == (1, 0.25, 1)
    assert report.parses.failures == {"invalid_rollout": 1, "truncated": 1, "wrong_arity": 1}
    assert report.detection == MatchCounts(2, 0, 2)
    document = render_report(report)
    counts = ("parsed", "invalid_rollouts", "truncated", "malformed_tails", "token_limit")
    assert {key: document[key] for key in counts} == dict.fromkeys(counts, 1)


@pytest.mark.invariant("EVAL-006")
def test_dropped_objects_are_summed_by_reason_with_examples_in_the_order_of_the_samples() -> None:
    predictions = [
        ImagePrediction("b", (), failed("wrong_arity", "wrong_arity", "key_invalid")),
        ImagePrediction("a", (), failed("missing_geom", "missing_geom", "wrong_arity", "wrong_arity", "wrong_arity")),
    ]
    for order in (predictions, predictions[::-1]):
        document = render_report(evaluate_detections([image("a"), image("b")], order))
        counted = {reason: count for reason, count in document["dropped_objects"].items() if count}
        assert counted == {"wrong_arity": 4, "key_invalid": 1, "missing_geom": 1}
        assert set(document["dropped_objects"]) == set(DROP_REASONS)
        assert list(document["dropped_examples"]) == ["missing_geom", "wrong_arity", "key_invalid"]
        assert document["dropped_examples"]["wrong_arity"] == ["what is wrong_arity"] * 3


@pytest.mark.invariant("EVAL-006")
def test_the_terminal_shows_what_was_dropped_and_cut() -> None:
    predictions = [ImagePrediction("a", (), failed("wrong_arity", "wrong_arity", truncated=True), token_limit=True)]
    table = build_summary_table(evaluate_detections([image("a", CAT)], predictions))
    rows = dict(zip(*(list(column.cells) for column in table.columns), strict=True))
    shown = {name: rows[name] for name in rows if name.startswith(("answer", "object"))}
    assert shown == {
        "objects: annotated": "1",
        "objects: predicted": "0",
        "objects: dropped": "1",
        "answers that parse": "0.000",
        "answers without a container": "0",
        "answers with a malformed tail": "0",
        "answers truncated": "1",
        "answers truncated, share": "1.000",
        "answers' length / annotated": "–",
        "answers cut by the token limit": "1",
        "answer does not parse: wrong_arity": "1",
        "object dropped: wrong_arity": "1",
    }


@pytest.mark.invariant("EVAL-013")
def test_each_split_is_reported_as_if_it_were_alone():
    truth = [image("a", CAT, split="plain"), image("b", CAT, FAR, split="crowded"), image("c", DOG)]
    cut = failed("truncated", truncated=True)
    predictions = [ImagePrediction("a", (CAT,)), ImagePrediction("b", (CAT,)), ImagePrediction("c", (), cut)]
    report = evaluate_detections(truth, predictions)
    assert set(report.splits) == {"plain", "crowded"}
    assert report.splits["crowded"] == evaluate_detections([image("b", CAT, FAR)], predictions[1:2])
    assert report.splits["plain"].detection.f1 == 1.0
    assert report.images == 3
    assert render_report(report)["splits"]["crowded"]["detection"]["recall"] == 0.5


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.invariant("EVAL-015")
@pytest.mark.parametrize(("written", "answered"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_name_is_found_however_its_characters_are_composed(written: str, answered: str) -> None:
    truth = [image("a", Detection(written, CAT.box), Detection(answered, FAR.box))]
    predictions = [ImagePrediction("a", (Detection(answered, CAT.box), Detection(answered, FAR.box)))]
    report = evaluate_detections(truth, predictions)
    assert (report.detection, report.unknown_desc) == (MatchCounts(2, 0, 0), 0)
    assert report.per_class == {COMPOSED: MatchCounts(2, 0, 0)}
    assert list(report.coco.per_class) == [COMPOSED]
    assert report.coco.summary["mAP"] == pytest.approx(1.0)


@pytest.mark.invariant("EVAL-015")
def test_names_that_only_look_alike_stay_apart() -> None:
    ligature = Detection("\ufb01n", CAT.box)
    report = evaluate_detections([image("a", ligature)], [ImagePrediction("a", (Detection("fin", CAT.box),))])
    assert (report.detection.true_positives, report.unknown_desc) == (0, 1)


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
