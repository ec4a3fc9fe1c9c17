"""What is not scored counts neither way: regions to ignore, and categories that nobody looked for in an image."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from coordexp.coordjson import render_answer
from coordexp.coords.types import CoordObject
from coordexp.data.regions import IgnoreRegion
from coordexp.data.types import Record
from coordexp.evaluation.detections import build_truth
from coordexp.evaluation.report import evaluate_detections, render_report
from coordexp.evaluation.summary import build_summary_table
from coordexp.evaluation.types import Detection, ImagePrediction, ImageTruth, MatchCounts
from coordexp.metrics.accumulator import MetricAccumulator
from coordexp.rollout.types import Decoding
from coordexp.training.rollout_evaluation import EvaluationSettings, RolloutEvaluation
from coordexp.training.types import Shard
from tests.plugins.reciter import Reciter

if TYPE_CHECKING:
    from pathlib import Path

    from coordexp.encode.encoder import Encoder

CAT = Detection("cat", (10, 10, 40, 40))
REGION = (50.0, 50.0, 100.0, 100.0)
INSIDE = (60.0, 60.0, 90.0, 90.0)
HALF = (40.0, 60.0, 60.0, 90.0)
"""Exactly half of it is in the region."""
LESS = (39.0, 60.0, 60.0, 90.0)


def compared(*found: Detection, objects: tuple[Detection, ...] = (CAT,), **scope: Any) -> Any:
    truth = ImageTruth("a", 128, 128, objects, **scope)
    return evaluate_detections([truth], [ImagePrediction("a", found)])


@pytest.mark.invariant("EVAL-040")
@pytest.mark.parametrize(
    ("found", "region", "detection", "localization"),
    [
        (Detection("cat", INSIDE), "cat", (0, 1), (0, 1)),
        (Detection("cat", INSIDE), None, (0, 1), (0, 1)),
        (Detection("cat", HALF), "cat", (0, 1), (0, 1)),
        (Detection("cat", LESS), "cat", (1, 0), (1, 0)),
        (Detection("dog", INSIDE), "cat", (1, 0), (0, 1)),
        (Detection("dog", INSIDE), None, (0, 1), (0, 1)),
        (Detection("cat", (60.0, 60.0, 60.0, 90.0)), "cat", (1, 0), (1, 0)),
    ],
    ids=["of its desc", "of any", "half", "less than half", "of another", "another in any", "without area"],
)
def test_a_prediction_half_inside_a_region_counts_neither_way(found, region, detection, localization):
    report = compared(CAT, found, ignore=(IgnoreRegion(region, REGION),))
    counted = [(part.false_positives, part.ignored) for part in (report.detection, report.localization)]
    assert counted == [detection, localization]
    assert report.detection.true_positives == 1 and report.detection.false_negatives == 0
    assert report.per_class["cat"].false_positives == (detection[0] if found.desc == "cat" else 0)
    assert (report.predicted_objects, report.regions, report.left_out) == (2, 1, 0)


@pytest.mark.invariant("EVAL-040")
def test_an_object_in_a_region_is_found_and_missed_like_any_other():
    inside = Detection("cat", INSIDE)
    scope = {"objects": (CAT, inside), "ignore": (IgnoreRegion("cat", REGION),)}
    assert compared(CAT, inside, **scope).detection == MatchCounts(2, 0, 0, 0)
    assert compared(CAT, **scope).detection == MatchCounts(1, 0, 1, 0)
    assert compared(CAT, inside, inside, **scope).detection == MatchCounts(2, 0, 0, 1)


@pytest.mark.invariant("EVAL-040")
def test_two_regions_that_hold_a_half_together_do_not_ignore_it():
    halves = (IgnoreRegion("cat", (50, 50, 62, 100)), IgnoreRegion("cat", (78, 50, 100, 100)))
    assert compared(Detection("cat", INSIDE), ignore=halves).detection.false_positives == 1


@pytest.mark.invariant("EVAL-040")
@pytest.mark.invariant("EVAL-042")
def test_a_region_costs_no_precision_in_coco_either():
    found = (replace(CAT, score=0.5), Detection("cat", INSIDE, 0.9))
    assert compared(*found).coco.summary["mAP50"] == pytest.approx(0.5)
    assert compared(*found, ignore=(IgnoreRegion("cat", REGION),)).coco.summary["mAP50"] == pytest.approx(1.0)
    assert compared(*found, ignore=(IgnoreRegion(None, REGION),)).coco.summary["mAP50"] == pytest.approx(1.0)
    assert compared(*found, ignore=(IgnoreRegion("dog", REGION),)).coco.summary["mAP50"] == pytest.approx(0.5)


@pytest.mark.invariant("EVAL-041")
def test_only_what_an_image_has_ignores_or_lists_is_scored_where_absence_was_verified():
    far = (100.0, 100.0, 120.0, 120.0)
    found = [CAT, *(Detection(name, far, 0.9) for name in ("cat", "dog", "cow", "emu"))]
    scope = {"ignore": (IgnoreRegion("cow", (0, 0, 5, 5)),), "verified_absent": frozenset({"dog"})}
    report = compared(*found, **scope)
    assert report.detection == MatchCounts(1, 3, 0, 0), "an emu may be there, a dog may not"
    assert report.localization == MatchCounts(1, 3, 0, 0)
    assert (report.left_out, report.predicted_objects) == (1, 5)
    assert compared(*found, ignore=scope["ignore"]).detection == MatchCounts(1, 4, 0, 0)
    assert compared(*found, verified_absent=frozenset()).detection == MatchCounts(1, 1, 0, 0)


@pytest.mark.invariant("EVAL-041")
def test_coco_leaves_the_same_predictions_out_and_only_in_that_image():
    dog = Detection("dog", (0, 0, 20, 20))
    wrong = Detection("dog", (50, 50, 70, 70), 1.0)
    truth = [ImageTruth("a", 128, 128, (dog,)), ImageTruth("b", 128, 128, (CAT,), verified_absent=frozenset())]

    def precision(*answers: tuple[Detection, ...]) -> float | None:
        found = [ImagePrediction(name, given) for name, given in zip("ab", answers, strict=True)]
        return evaluate_detections(truth, found).coco.per_class["dog"][1]

    assert precision((replace(dog, score=0.5),), (CAT, wrong)) == pytest.approx(1.0)
    assert precision((replace(dog, score=0.5), wrong), (CAT,)) == pytest.approx(0.5)


@pytest.mark.invariant("EVAL-040")
def test_names_of_regions_and_absent_categories_are_compared_in_nfc():
    scope = {"ignore": (IgnoreRegion("cafe\u0301", REGION),), "verified_absent": frozenset({"a\u0300"})}
    report = compared(CAT, Detection("caf\u00e9", INSIDE), Detection("\u00e0", INSIDE), **scope)
    assert (report.detection.ignored, report.detection.false_positives, report.left_out) == (1, 1, 0)
    assert report.unknown_desc == 0


@pytest.mark.invariant("EVAL-040")
@pytest.mark.invariant("EVAL-041")
def test_report_and_terminal_say_how_much_was_not_scored():
    found = (CAT, Detection("cat", INSIDE), Detection("emu", INSIDE))
    report = compared(*found, ignore=(IgnoreRegion("cat", REGION),), verified_absent=frozenset())
    document = render_report(report)
    assert (document["regions"], document["left_out"], document["detection"]["ignored"]) == (1, 1, 1)
    columns = (map(str, column.cells) for column in build_summary_table(report).columns)
    rows = dict(zip(*columns, strict=True))
    assert rows["regions that are not scored"] == rows["predictions in them"] == "1"
    assert rows["predictions of what nobody looked for"] == "1"


RECORD = Record(
    "r.jsonl:1",
    ("a.png",),
    128,
    128,
    (CoordObject("cell", "bbox_2d", (80, 80, 310, 310)),),
    metadata={"image_id": 1, "ignore": [{"desc": "cell", "bbox_2d": [55, 55, 115, 115]}], "verified_absent": ["dog"]},
)
ANSWER = (*RECORD.objects, CoordObject("cell", "bbox_2d", (472, 472, 708, 708)))


@pytest.mark.invariant("EVAL-040")
def test_a_record_s_scope_goes_with_its_truth():
    truth = build_truth(RECORD)
    assert truth.ignore == (IgnoreRegion("cell", (55.0, 55.0, 115.0, 115.0)),)
    assert truth.verified_absent == {"dog"}
    assert build_truth(replace(RECORD, metadata={})).ignore == ()
    assert build_truth(replace(RECORD, metadata={})).verified_absent is None


@pytest.mark.invariant("EVAL-040")
def test_an_evaluation_step_of_training_leaves_regions_alone(cut_encoder: Encoder, tmp_path: Path) -> None:
    """The answer has a second cell, which lies in the record's region."""
    Image.new("RGB", (128, 128)).save(tmp_path / "a.png")
    records = (RECORD, replace(RECORD, source="r.jsonl:2", metadata={}))
    samples = SimpleNamespace(records=records, file=SimpleNamespace(image_root=tmp_path))
    backend = Reciter(cut_encoder, {record.source: render_answer(ANSWER) for record in records})
    settings = EvaluationSettings(Decoding(50), coco=True, score_mode="constant", constant_score=1.0)
    step = RolloutEvaluation(backend, cut_encoder, samples, settings, Shard())
    observed = MetricAccumulator()
    observed.merge(step.evaluate(0))
    assert observed.result()["rollout/precision"] == 2 / 3, "two found, and one wrong where nothing is ignored"
    assert observed.result()["rollout/recall"] == pytest.approx(1.0)
