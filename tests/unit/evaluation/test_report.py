"""The report: counts, unknown names, splits, and inputs that do not belong together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordexp.coordjson import DROP_REASONS, NO_CUT, DroppedObject, ParsedRollout
from coordexp.evaluation.report import EvaluationError, evaluate_detections, render_report
from coordexp.evaluation.summary import build_summary_table
from coordexp.evaluation.types import NO_ANSWER, Detection, DetectionReport, ImagePrediction, ImageTruth, MatchCounts

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
    rows = dict(zip(*(map(str, column.cells) for column in table.columns), strict=True))
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


def three_splits() -> DetectionReport:
    """Images of three splits in turn, one of none; every count differs between the splits."""
    none, cut = failed("invalid_rollout", invalid_rollout=True), failed("truncated", "key_invalid", truncated=True)
    tail = failed("malformed_tail", malformed_tail=True)
    rows = [
        ("h", "plain", (CAT,), ImagePrediction("h", (CAT,))),
        ("b", "crowded", (CAT, DOG), ImagePrediction("b", (DOG,), cut, token_limit=True)),
        ("g", "rare", (COW, FAR), ImagePrediction("g", (), none)),
        ("a", "plain", (DOG,), ImagePrediction("a", (), none, token_limit=True)),
        ("f", "crowded", (DOG, COW, FAR), ImagePrediction("f", (), cut)),
        ("c", None, (CAT,), ImagePrediction("c", (CAT, COW), tail)),
        ("e", "plain", (CAT, DOG), ImagePrediction("e", (COW, DOG))),
        ("d", "crowded", (DOG,), ImagePrediction("d", (), cut, token_limit=True)),
    ]
    truth = [image(sample, *objects, split=split) for sample, split, objects, _ in rows]
    return evaluate_detections(truth, [answer for *_, answer in rows[::-1]])


COUNTED = {
    "images": (8, 3, 3, 1),
    "ground_truth_objects": (13, 6, 4, 2),
    "predicted_objects": (6, 1, 3, 0),
    "parsed": (2, 0, 2, 0),
    "invalid_rollouts": (2, 0, 1, 1),
    "truncated": (3, 3, 0, 0),
    "malformed_tails": (1, 0, 0, 0),
    "token_limit": (3, 2, 1, 0),
    "unknown_desc": (0, 0, 1, 0),
}
"""Of all images, then of crowded, plain and rare."""


@pytest.mark.invariant("EVAL-013")
def test_what_is_unparsed_invalid_or_cut_is_counted_in_its_own_split() -> None:
    document = render_report(three_splits())
    assert list(document["splits"]) == ["crowded", "plain", "rare"]
    parts = (document, *document["splits"].values())
    assert {key: tuple(part[key] for part in parts) for key in COUNTED} == COUNTED
    assert [part["parse_failures"] for part in parts] == [
        {"invalid_rollout": 2, "malformed_tail": 1, "truncated": 3},
        {"truncated": 3},
        {"invalid_rollout": 1},
        {"invalid_rollout": 1},
    ]
    assert [part["dropped_objects"]["key_invalid"] for part in parts] == [3, 3, 0, 0]
    assert [sorted(part["dropped_examples"]) for part in parts] == [["key_invalid"], ["key_invalid"], [], []]
    outcomes = [tuple(part["detection"].values())[:3] for part in parts]
    assert outcomes == [(4, 2, 9), (1, 0, 5), (2, 1, 2), (0, 0, 2)]


@pytest.mark.invariant("EVAL-018")
def test_the_terminal_shows_each_split_in_the_column_of_its_name() -> None:
    table = build_summary_table(three_splits())
    assert [str(column.header) for column in table.columns] == ["", "all", "crowded", "plain", "rare"]
    names, *columns = [list(map(str, column.cells)) for column in table.columns]
    rows = {name: tuple(column[at] for column in columns) for at, name in enumerate(names)}
    assert rows["images"] == ("8", "3", "3", "1")
    assert rows["objects: annotated"] == ("13", "6", "4", "2")
    assert rows["objects: predicted"] == ("6", "1", "3", "0")
    assert rows["answers that parse"] == ("0.250", "0.000", "0.667", "0.000")
    assert rows["answers without a container"] == ("2", "0", "1", "1")
    assert rows["answers with a malformed tail"] == ("1", "0", "0", "0")
    assert rows["answers truncated"] == ("3", "3", "0", "0")
    assert rows["answers cut by the token limit"] == ("3", "2", "1", "0")
    assert rows["predictions with an unknown desc"] == ("0", "0", "1", "0")
    assert rows["answer does not parse: malformed_tail"] == ("1", "0", "0", "0")
    assert rows["answer does not parse: invalid_rollout"] == ("2", "0", "1", "1")
    assert rows["object dropped: key_invalid"] == ("3", "3", "0", "0")
    assert (rows["recall"], rows["precision (IoU 0.5, same desc)"]) == (
        ("0.308", "0.167", "0.500", "0.000"),
        ("0.667", "1.000", "0.667", "–"),
    )


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
