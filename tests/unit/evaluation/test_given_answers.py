"""`evaluate --predictions`: answers that are there already score as they did, COCO results as pycocotools says."""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coordexp.artifacts.evaluation_files import write_evaluation
from coordexp.entrypoints.evaluate import main
from coordexp.evaluation.coco import SUMMARY_NAMES
from tests.plugins.found_files import Kitchen, kitchen
from tests.plugins.given_answers import cooked, fill, numbers, spoken, written

if TYPE_CHECKING:
    from coordexp.encode.encoder import Encoder

__all__ = ["kitchen"]


def without_ceilings(report: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in report.items() if key != "ceiling"}
    return plain | {"splits": {name: without_ceilings(part) for name, part in report["splits"].items()}}


@pytest.mark.invariant("EVAL-087")
@pytest.mark.parametrize("truth", ["records", "annotations"])
def test_stored_answers_score_as_when_they_were_made(
    kitchen: Kitchen, cut_encoder: Encoder, tmp_path: Path, capsys: Any, truth: str
) -> None:
    jsonl, annotations, about = cooked(kitchen, tmp_path)
    evaluation = spoken(cut_encoder, jsonl, annotations if truth == "annotations" else None)
    made = write_evaluation(tmp_path / "made", evaluation, about)
    told = numbers(made)
    assert told["parse_rate"] == 0.5 and told["samples"]["count"] == 1 and set(told["splits"]) == {"first", "second"}
    assert main(["--predictions", str(made / "predictions.jsonl"), "--out", str(tmp_path / "a")]) == 0
    assert numbers(tmp_path / "a") == without_ceilings(told)
    assert (tmp_path / "a/predictions.jsonl").read_bytes() == (made / "predictions.jsonl").read_bytes()
    assert (tmp_path / "a/gallery.png").is_file()
    shown = capsys.readouterr().out
    assert "scores: constant, as in the file" in shown and "sampled answers" in shown
    given = ["--predictions", str(made / "predictions.jsonl"), "--jsonl", str(jsonl), "--coco-engine", "pycocotools"]
    given += ["--annotations", str(annotations)] if truth == "annotations" else []
    assert main([*given, "--out", str(tmp_path / "b")]) == 0
    assert numbers(tmp_path / "b") == told
    assert (tmp_path / "b/predictions.jsonl").read_bytes() == (made / "predictions.jsonl").read_bytes()
    if truth == "annotations":
        assert (tmp_path / "b/coco_results.json").read_bytes() == (made / "coco_results.json").read_bytes()
    about_it = json.loads((tmp_path / "a/report.json").read_text(encoding="utf-8"))["provenance"]["predictions"]
    first = json.loads((made / "report.json").read_text(encoding="utf-8"))["provenance"]
    assert about_it["made_by"] == first and about_it["sha256"] == first["predictions_sha256"]


@pytest.mark.invariant("EVAL-087")
def test_answers_of_an_earlier_day_are_compared_with_the_annotations(
    kitchen: Kitchen, cut_encoder: Encoder, tmp_path: Path
) -> None:
    jsonl, annotations, about = cooked(kitchen, tmp_path)
    made = write_evaluation(tmp_path / "records", spoken(cut_encoder, jsonl, None), about)
    wanted = numbers(write_evaluation(tmp_path / "file", spoken(cut_encoder, jsonl, annotations), about))
    given = ["--predictions", str(made / "predictions.jsonl"), "--jsonl", str(jsonl), "--annotations", str(annotations)]
    assert main([*given, "--out", str(tmp_path / "a")]) == 0
    assert numbers(tmp_path / "a") == wanted
    assert main([*given, "--limit", "2", "--out", str(tmp_path / "b")]) == 0
    assert numbers(tmp_path / "b")["images"] == 2


def results_of(kitchen: Kitchen, seed: int) -> list[dict[str, Any]]:
    """Rows near the annotations and far from them, in no order, with ties and repetitions."""
    rng = random.Random(seed)
    rows = []
    for annotation in kitchen.coco["annotations"] * 4:
        x, y, w, h = annotation["bbox"]
        box = [x + rng.uniform(-4, 4), y + rng.choice((0, 1.1)), w * rng.choice((1, 0.5, 0.9)), h]
        rows.append(
            {"image_id": annotation["image_id"], "category_id": rng.choice((annotation["category_id"], 3, 4))}
            | {"bbox": box, "score": rng.choice((-1.5, 0.25, 80.0)), "segmentation": []}
        )
    rows += [dict(row) for row in rows[:3]]
    rng.shuffle(rows)
    return rows


def by_hand(annotations: Path, results: Path) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        oracle = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        oracle.evaluate()
        oracle.accumulate()
        oracle.summarize()
    return list(oracle.stats)


@pytest.mark.invariant("EVAL-088")
@pytest.mark.parametrize("engine", ["pycocotools", "hotcoco"])
@pytest.mark.parametrize("seed", range(6))
def test_results_made_elsewhere_score_as_pycocotools_says(
    kitchen: Kitchen, tmp_path: Path, capsys: Any, seed: int, engine: str
) -> None:
    fill(kitchen)
    annotations, results = written(kitchen, results_of(kitchen, seed), tmp_path)
    given = ["--predictions", str(results), "--annotations", str(annotations), "--coco-engine", engine]
    assert main([*given, "--out", str(tmp_path / "e")]) == 0
    report = numbers(tmp_path / "e")
    ours = [-1.0 if report["coco"][name] is None else report["coco"][name] for name in SUMMARY_NAMES]
    assert ours == pytest.approx(by_hand(annotations, results), abs=1e-9)
    assert (report["score_mode"], report["truth"], report["images"]) == ("given", "annotations", 4)
    assert report["predicted_objects"] == 23 and report["ground_truth_objects"] == 4
    assert report["parse_rate"] is None and report["parsed"] == 0 and report["parse_failure_rate"] is None
    assert report["lengths"]["ratio"] is None and report["truncated_rate"] is None and "ceiling" not in report
    assert "names" not in report
    provenance = json.loads((tmp_path / "e/report.json").read_text(encoding="utf-8"))["provenance"]["predictions"]
    assert (provenance["rows"], provenance["repeated"], provenance["form"]) == (23, 3, "coco-results")
    shown = capsys.readouterr().out
    assert "scores: given by the file" in shown and "answers that parse" not in shown
    assert "gallery.png is not written: --images DIR says where" in shown
    assert not (tmp_path / "e/gallery.png").exists()
    assert main(["--predictions", str(tmp_path / "e/predictions.jsonl"), "--out", str(tmp_path / "f")]) == 0
    again = numbers(tmp_path / "f")
    assert again | {"coco_engine": 0} == report | {"coco_engine": 0}, "what it wrote scores alike"


@pytest.mark.invariant("EVAL-088")
def test_results_of_our_own_with_their_records_give_the_numbers_and_the_ceiling(
    kitchen: Kitchen, cut_encoder: Encoder, tmp_path: Path
) -> None:
    jsonl, annotations, about = cooked(kitchen, tmp_path)
    made = write_evaluation(tmp_path / "e", spoken(cut_encoder, jsonl, annotations), about)
    given = ["--predictions", str(made / "coco_results.json"), "--annotations", str(annotations)]
    assert main([*given, "--jsonl", str(jsonl), "--out", str(tmp_path / "f")]) == 0
    before, after = numbers(made), numbers(tmp_path / "f")
    assert after["coco"] == before["coco"] and after["ceiling"] == before["ceiling"]
    assert after["per_class"] == before["per_class"] and after["splits"].keys() == before["splits"].keys()
    assert after["detection"]["false_positives"] == before["detection"]["false_positives"] - 2
    assert (tmp_path / "f/gallery.png").is_file()


@pytest.mark.invariant("EVAL-088")
def test_the_images_folder_gives_a_gallery_and_a_limit_the_first_images(
    kitchen: Kitchen, tmp_path: Path, capsys: Any
) -> None:
    fill(kitchen)
    annotations, results = written(kitchen, results_of(kitchen, 1), tmp_path)
    given = ["--predictions", str(results), "--annotations", str(annotations), "--limit", "2"]
    assert main([*given, "--images", str(tmp_path / "images"), "--out", str(tmp_path / "e")]) == 0
    report = json.loads((tmp_path / "e/report.json").read_text(encoding="utf-8"))
    assert report["images"] == 2 and report["provenance"]["annotations"]["images_without_record"] == 2
    rows = json.loads(results.read_text(encoding="utf-8"))
    assert report["provenance"]["predictions"]["of_other_images"] == sum(row["image_id"] > 2 for row in rows) > 0
    with Image.open(tmp_path / "e/gallery.png") as page:
        assert page.width > 700
    lines = [json.loads(line) for line in (tmp_path / "e/predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["image"] for line in lines] == [str(tmp_path / "images" / name) for name in ("a.png", "b [1] ü.PNG")]
    assert [line["sample_id"] for line in lines] == ["a.png (image id 1)", "b [1] ü.PNG (image id 2)"]
    assert "gallery" not in capsys.readouterr().out


@pytest.mark.invariant("EVAL-088")
def test_no_result_at_all_is_an_outcome(kitchen: Kitchen, tmp_path: Path) -> None:
    fill(kitchen)
    annotations, results = written(kitchen, [], tmp_path)
    given = ["--predictions", str(results), "--annotations", str(annotations), "--out", str(tmp_path / "e")]
    assert main(given) == 0
    report = numbers(tmp_path / "e")
    assert (report["coco"]["mAP"], report["detection"]["f1"], report["predicted_objects"]) == (0.0, 0.0, 0)
    assert json.loads((tmp_path / "e/coco_results.json").read_text()) == []
