"""Descriptions of answers against the categories of an annotation file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordexp.artifacts.evaluation_files import write_evaluation
from coordexp.entrypoints.evaluate import main
from coordexp.evaluation.names import CategoryNames
from coordexp.evaluation.report import evaluate_detections, render_report
from coordexp.evaluation.summary import render_names
from coordexp.evaluation.types import Detection, ImagePrediction, ImageTruth
from tests.plugins.found_files import Kitchen, kitchen
from tests.plugins.given_answers import cooked, numbers, spoken

if TYPE_CHECKING:
    from coordexp.encode.encoder import Encoder

__all__ = ["kitchen"]


@pytest.mark.invariant("EVAL-091")
def test_names_alike_in_writing_are_found_and_others_are_counted_and_listed(
    kitchen: Kitchen, cut_encoder: Encoder, tmp_path: Path, capsys: Any
) -> None:
    jsonl, annotations, about = cooked(kitchen, tmp_path)
    made = write_evaluation(tmp_path / "e", spoken(cut_encoder, jsonl, annotations), about)
    report = numbers(made)
    assert report["names"] == {
        "exact": 2,
        "normalized": 2,
        "unmapped": 2,
        "unmapped_descs": [{"desc": "gremlin", "predictions": 2}],
        "unmapped_descs_beyond": 0,
    }
    assert report["per_class"]["Traffic_Light"]["true_positives"] == 1
    assert report["per_class"]["dish tray"]["false_positives"] == 1
    assert report["detection"]["false_positives"] == 3, "what means no category stays wrong"
    lines = [json.loads(line) for line in (made / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(p["desc"], p.get("said")) for p in lines[3]["predictions"]] == [
        ("Traffic_Light", "traffic light"),
        ("dish tray", "DISH-TRAY"),
    ]
    assert lines[0]["unmapped"] == ["gremlin"] and lines[1]["unmapped"] == []
    assert main(["--predictions", str(made / "predictions.jsonl")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "of no category, and wrong wherever they stand: 'gremlin' 2" in shown
    assert "predictions of a category written otherwise │ 2" in shown


@pytest.mark.invariant("EVAL-091")
@pytest.mark.parametrize(
    ("known", "others", "said", "found"),
    [
        (["tv"], [], "tv", "tv"),
        (["tv"], [], "TV", "tv"),
        (["Traffic_Light"], [], "traffic  light", "Traffic_Light"),
        (["t-shirt"], [], "T_Shirt", "t-shirt"),
        (["straße"], [], "STRASSE", "straße"),
        (["Cafe\u0301 noir"], [], "café NOIR", "Cafe\u0301 noir"),
        (["tvs"], [], "tv", None),
        (["Dog", "dog"], [], "dog", "dog"),
        (["Dog", "dog"], [], "DOG", None),
        (["dog"], ["Dog"], "DOG", None),
        (["dog"], ["Dog"], "dog", "dog"),
        (["-"], [], "_", None),
        ([], [], "dog", None),
    ],
)
def test_a_name_is_found_if_it_can_mean_one_category(
    known: list[str], others: list[str], said: str, found: str | None
) -> None:
    assert CategoryNames(frozenset(known), frozenset(others)).find(said) == found


@pytest.mark.invariant("EVAL-091")
def test_a_report_lists_twenty_names_without_a_category_and_counts_the_others() -> None:
    said = [f"thing {number:02}" for number in range(25) for _ in range(1 + (number == 7))]
    box = (0.0, 0.0, 9.0, 9.0)
    truth = ImageTruth("a", 20, 20, (Detection("cat", box),))
    answer = CategoryNames(frozenset({"cat"})).rename(
        ImagePrediction("a", tuple(Detection(name, box) for name in ["Cat", *said]))
    )
    report = evaluate_detections([truth], [answer])
    names = render_report(report)["names"]
    assert (names["exact"], names["normalized"], names["unmapped"]) == (0, 1, 26)
    assert names["unmapped_descs"][:2] == [
        {"desc": "thing 07", "predictions": 2},
        {"desc": "thing 00", "predictions": 1},
    ]
    assert len(names["unmapped_descs"]) == 20 and names["unmapped_descs_beyond"] == 5
    line = render_names(report)
    assert line is not None and line.endswith("'thing 19' 1 and 5 more descriptions")
    assert (report.detection.true_positives, report.detection.false_positives) == (1, 26)
