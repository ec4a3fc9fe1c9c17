"""What the quick start says of its checkpoints: each number under its own heading, and which stage has improved."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from coordexp.demo.measure import Measured
from coordexp.demo.table import StageOutcome, build_outcome_table, gallery_lines
from coordexp.evaluation.report import evaluate_detections
from coordexp.evaluation.types import Detection, ImagePrediction, ImageTruth

CAT, FAR = Detection("cat", (0, 0, 60, 30)), Detection("cat", (70, 10, 90, 50))
LOOSE = Detection("cat", (0, 0, 60, 22))
TRUTH = [ImageTruth("a.jsonl:1", 120, 60, (CAT, FAR), answer_tokens=40)]


def measured(*found: Detection, near_duplicates: int = 0, gallery: str = "gallery.png") -> Measured:
    report = evaluate_detections(TRUTH, [ImagePrediction("a.jsonl:1", found, generated_tokens=20 * len(found))])
    return Measured(report, near_duplicates, Path(gallery))


WORSE, BETTER = measured(LOOSE), measured(CAT, FAR)


def outcome(name: str, judged: str, before: dict[str, Measured], after: dict[str, Measured]) -> StageOutcome:
    return StageOutcome(name, judged, before, after, Path("checkpoint"))


def cells(table: Table) -> dict[str, dict[str, str]]:
    """Cells by heading, then by row."""
    names, *columns = (list(column.cells) for column in table.columns)
    return {
        " ".join(str(column.header).split("\n")): {
            str(name): str(cell) for name, cell in zip(names, found, strict=True)
        }
        for column, found in zip(table.columns[1:], columns, strict=True)
    }


@pytest.mark.invariant("EVAL-018")
@pytest.mark.parametrize("improved", [True, False])
def test_each_number_stands_under_its_own_checkpoint(improved: bool) -> None:
    before, after = (WORSE, BETTER) if improved else (BETTER, WORSE)
    stage = outcome("stage 1", "plain", {"plain": before}, {"plain": after})
    shown = cells(build_outcome_table([stage]))
    assert list(shown) == ["before", "after"]
    low, high = (shown[name] for name in (("before", "after") if improved else ("after", "before")))
    assert (low["F1 (IoU 0.5)"], high["F1 (IoU 0.5)"]) == ("0.667", "1.000")
    assert float(low["mAP@[.5:.95]"]) < 0.5 and high["mAP@[.5:.95]"] == "1.000"
    assert (low["truncated"], low["length ratio"]) == ("0.000", "0.500")
    assert (high["truncated"], high["length ratio"]) == ("0.000", "1.000")
    assert stage.improved is improved
    assert ("NOT improved" in stage.verdict) is not improved


@pytest.mark.invariant("EVAL-018")
def test_an_equal_score_is_no_improvement() -> None:
    stage = outcome("stage 1", "plain", {"plain": WORSE}, {"plain": WORSE})
    assert not stage.improved and "NOT improved" in stage.verdict


def two_stages() -> list[StageOutcome]:
    """Stage 1 improves plain images alone, stage 2 crowded ones alone; every measurement is told by its number."""
    numbered = [
        measured(*found, near_duplicates=number, gallery=f"{number}.png")
        for number, found in enumerate(
            [(LOOSE,), (LOOSE,), (CAT, FAR), (LOOSE,), (CAT, FAR), (LOOSE,), (LOOSE,), (CAT, FAR)], start=1
        )
    ]
    pairs = [
        dict(zip(("plain", "crowded"), pair, strict=True)) for pair in zip(numbered[::2], numbered[1::2], strict=True)
    ]
    return [outcome("stage 1", "plain", *pairs[:2]), outcome("stage 2", "crowded", *pairs[2:])]


@pytest.mark.invariant("EVAL-030")
def test_every_column_names_its_images_its_stage_and_its_end() -> None:
    stages = two_stages()
    table = build_outcome_table(stages)
    copies = {heading: column["near-duplicates"] for heading, column in cells(table).items()}
    assert copies == {
        "plain stage 1 before": "1",
        "plain stage 1 after": "3",
        "plain stage 2 before": "5",
        "plain stage 2 after": "7",
        "crowded stage 1 before": "2",
        "crowded stage 1 after": "4",
        "crowded stage 2 before": "6",
        "crowded stage 2 after": "8",
    }
    assert gallery_lines(stages) == [
        f"gallery  {images}, {when} {stage}: {number}.png"
        for number, (images, when, stage) in enumerate(
            ((images, when, stage) for stage in ("stage 1", "stage 2") for when in ("before", "after")
             for images in ("plain", "crowded")), start=1)
    ]  # fmt: skip


@pytest.mark.invariant("EVAL-030")
def test_the_table_fits_a_terminal_of_80_characters() -> None:
    page = StringIO()
    Console(file=page, width=80, color_system=None).print(build_outcome_table(two_stages()))
    text = page.getvalue()
    assert "…" not in text and "mAP@[.5:.95]" in text
    numbers = [line for line in text.splitlines() if line.startswith("mAP@[.5:.95]")]
    assert [len(line.split()) for line in numbers] == [9]


@pytest.mark.invariant("EVAL-030")
def test_a_stage_is_judged_by_the_images_of_its_kind() -> None:
    first, second = two_stages()
    assert first.improved and second.improved
    told = "stage 1: mAP on plain images 0.252 -> 1.000, improved; on crowded images 0.252 -> 0.252"
    assert first.verdict == told
    assert not StageOutcome("stage 2", "plain", second.before, second.after, Path("checkpoint")).improved
