"""What the quick start says of its two checkpoints: each number under its own heading, and which one is better."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordexp.evaluation.report import evaluate_detections
from coordexp.evaluation.types import Detection, DetectionReport, ImagePrediction, ImageTruth
from coordexp.training.quickstart import QuickstartOutcome, build_outcome_table

CAT, FAR = Detection("cat", (0, 0, 60, 30)), Detection("cat", (70, 10, 90, 50))
LOOSE = Detection("cat", (0, 0, 60, 22))
TRUTH = [ImageTruth("a.jsonl:1", 120, 60, (CAT, FAR), answer_tokens=40)]


def report(*found: Detection) -> DetectionReport:
    return evaluate_detections(TRUTH, [ImagePrediction("a.jsonl:1", found, generated_tokens=20 * len(found))])


@pytest.mark.invariant("EVAL-018")
@pytest.mark.parametrize("improved", [True, False])
def test_each_number_stands_under_its_own_checkpoint(improved: bool) -> None:
    worse, better = report(LOOSE), report(CAT, FAR)
    before, after = (worse, better) if improved else (better, worse)
    outcome = QuickstartOutcome(before, after, Path("checkpoint"), Path("gallery.png"))
    table = build_outcome_table(outcome)
    names, *columns = (list(column.cells) for column in table.columns)
    shown = {
        str(column.header): dict(zip(names, cells, strict=True))
        for column, cells in zip(table.columns[1:], columns, strict=True)
    }
    assert list(shown) == ["before", "after"]
    low, high = (shown[name] for name in (("before", "after") if improved else ("after", "before")))
    assert (low["F1 (IoU 0.5)"], high["F1 (IoU 0.5)"]) == ("0.667", "1.000")
    assert float(low["COCO mAP@[.5:.95]"]) < 0.5 and high["COCO mAP@[.5:.95]"] == "1.000"
    assert (low["answers truncated"], low["answers' length / annotated"]) == ("0.000", "0.500")
    assert (high["answers truncated"], high["answers' length / annotated"]) == ("0.000", "1.000")
    assert outcome.improved is improved


@pytest.mark.invariant("EVAL-018")
def test_an_equal_score_is_no_improvement() -> None:
    same = report(CAT)
    assert not QuickstartOutcome(same, same, Path("checkpoint"), Path("gallery.png")).improved
