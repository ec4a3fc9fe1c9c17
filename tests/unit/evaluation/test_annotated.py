"""`evaluate --annotations`: answers in pixels of the annotation file, results in its ids, refusals in one message."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coordexp.artifacts.evaluation_files import EvaluatedFiles, write_evaluation
from coordexp.coordjson import render_answer
from coordexp.coords.types import CoordObject
from coordexp.data.records import read_records
from coordexp.entrypoints.evaluate import main
from coordexp.evaluation.annotated import read_annotations
from coordexp.evaluation.coco import SUMMARY_NAMES
from coordexp.evaluation.report import EvaluationError
from coordexp.evaluation.runner import Evaluation, GenerationSettings, evaluate_model
from coordexp.forward.tiny import SMALLEST, build_tiny_model
from coordexp.rollout.types import Decoding
from coordexp.spec import check
from tests.plugins.found_files import Cooked, Kitchen, kitchen
from tests.plugins.reciter import Reciter

if TYPE_CHECKING:
    from coordexp.encode.encoder import Encoder

__all__ = ["kitchen"]
CONFIG = Path(__file__).parents[3] / "configs/stage1/smoke/shapes.yaml"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, cut_processor: Any) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    build_tiny_model(cut_processor.tokenizer, SMALLEST, seed=1).save_pretrained(folder)
    cut_processor.save_pretrained(folder)
    return folder


def fill(kitchen: Kitchen) -> None:
    """Three images that are scaled differently, two categories, a crowd, an image that is asked nothing about."""
    kitchen.coco["categories"] = [{"id": 7, "name": "cell"}, {"id": 3, "name": "dish  tray"}]
    kitchen.add("a.png", [10, 20, 30, 40], [100.3, 99.9, 2, 2], size=(200, 150), category_id=7)
    kitchen.add("b.png", [10, 20, 90, 40], size=(333, 64), category_id=3, area=50.0)
    kitchen.coco["annotations"].append(
        {"id": 9, "image_id": 2, "category_id": 7, "bbox": [150, 5, 100, 55], "iscrowd": 1, "area": 5500}
    )
    kitchen.add("c.png", size=(64, 64))
    for annotation in kitchen.coco["annotations"]:
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
        annotation.setdefault("iscrowd", 0)


def answered(cooked: Cooked, annotations: Path, encoder: Encoder, answers: dict[int, list[CoordObject]]) -> Evaluation:
    """The evaluation of given answers, by image id; an image without one is answered with its own objects."""
    jsonl = cooked.folder / "records.jsonl"
    records = list(read_records(jsonl))
    said = {r.source: render_answer(tuple(answers.get(r.metadata["image_id"], r.objects))) for r in records}
    read = read_annotations(annotations, jsonl, records)
    settings = GenerationSettings(Decoding(200), "constant")
    return evaluate_model(Reciter(encoder, said), encoder, records, settings, annotations=read)


@pytest.mark.invariant("EVAL-045")
def test_boxes_lie_in_the_file_s_own_pixels_and_results_load_in_pycocotools(
    kitchen: Kitchen, cut_encoder: Encoder, checkpoint: Path, tmp_path: Path
) -> None:
    fill(kitchen)
    cooked = kitchen.cook("--max-pixels", "9216")
    annotations = tmp_path / "annotations.json"
    strange = CoordObject("gremlin", "bbox_2d", (1, 1, 90, 90))
    cells = [CoordObject("cell", "bbox_2d", (0, 0, 999, 999)), CoordObject("cell", "bbox_2d", (500, 200, 700, 900))]
    evaluation = answered(cooked, annotations, cut_encoder, {2: [*cells, strange]})
    folder = write_evaluation(tmp_path / "e", evaluation, EvaluatedFiles(checkpoint, cooked.folder / "records.jsonl"))
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert (report["truth"], report["regions"], report["ground_truth_objects"]) == ("annotations", 1, 3)
    assert report["detection"]["ignored"] == 1 and report["detection"]["true_positives"] == 2
    assert report["provenance"]["annotations"]["images_without_record"] == 0
    results = check("evaluation-coco-results", json.loads((folder / "coco_results.json").read_text(encoding="utf-8")))
    assert {(row["image_id"], row["category_id"]) for row in results} == {(1, 7), (2, 7)}
    whole = next(row["bbox"] for row in results if row["image_id"] == 2 and row["bbox"][0] == 0)
    record = read_records(cooked.folder / "records.jsonl")[1]
    assert whole == pytest.approx([0, 0, 333 * (1 - 1 / record.width), 64 * (1 - 1 / record.height)])
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["width"], line["height"]) for line in lines] == [(200, 150), (333, 64), (64, 64)]
    assert lines[0]["ground_truth"][0]["box"] == [10, 20, 40, 60]
    assert lines[0]["predictions"][0]["box"] == pytest.approx([10, 20, 40, 60], abs=0.5)
    assert lines[1]["ignore"] == [{"desc": "cell", "box": [150, 5, 250, 60]}]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        oracle = COCOeval(truth, truth.loadRes(str(folder / "coco_results.json")), "bbox")
        oracle.evaluate()
        oracle.accumulate()
        oracle.summarize()
    ours = [-1.0 if report["coco"][name] is None else report["coco"][name] for name in SUMMARY_NAMES]
    assert ours == pytest.approx(list(oracle.stats), abs=1e-9)
    assert report["coco"]["mAP_small"] is not None and report["coco"]["mAP_medium"] is not None
    with Image.open(folder / "gallery.png") as page:
        assert page.width > 800


@pytest.mark.invariant("EVAL-045")
def test_names_are_those_of_the_category_map_beside_the_records(
    kitchen: Kitchen, cut_encoder: Encoder, tmp_path: Path
) -> None:
    fill(kitchen)
    (tmp_path / "map.json").write_text(json.dumps({"dish tray": "plate"}))
    cooked = kitchen.cook("--category-map", str(tmp_path / "map.json"))
    evaluation = answered(cooked, tmp_path / "annotations.json", cut_encoder, {})
    report = evaluation.report
    assert set(report.per_class) == {"plate"} and report.detection.true_positives == 1
    assert evaluation.annotations is not None
    assert (evaluation.annotations.left_out, evaluation.annotations.categories) == (("cell",), {"plate": 3})


@pytest.mark.invariant("EVAL-045")
def test_merged_images_are_one_truth_and_objects_that_cooking_dropped_stay(
    kitchen: Kitchen, cut_encoder: Encoder, tmp_path: Path
) -> None:
    kitchen.add("a.png", [10, 10, 20, 20], [10, 10, 20, 20], [70, 70, 5, 5])
    second = kitchen.add("a.png", [40, 40, 20, 20])
    kitchen.coco["annotations"].append(
        {"id": 99, "image_id": second["id"], "category_id": 1, "bbox": [1, 1, 9, 9], "ignore": 1}
    )
    cooked = kitchen.cook()
    evaluation = answered(cooked, tmp_path / "annotations.json", cut_encoder, {})
    report = evaluation.report
    assert (report.images, report.ground_truth_objects, report.regions) == (1, 4, 1)
    assert (report.detection.true_positives, report.detection.false_negatives) == (2, 2)
    assert report.ceiling is not None and report.ceiling.unmatchable == 1
    assert report.ceiling.f1 == report.detection.f1


@pytest.mark.invariant("EVAL-045")
def test_lvis_s_lists_are_read_from_the_file(kitchen: Kitchen, cut_encoder: Encoder, tmp_path: Path) -> None:
    kitchen.coco["categories"] = [{"id": n, "name": name} for n, name in enumerate(("cell", "dog", "cow", "emu"), 1)]
    image = kitchen.add("a.png", [10, 10, 20, 20])
    image |= {"neg_category_ids": [2], "not_exhaustive_category_ids": [3]}
    far = (600, 600, 900, 900)
    said = [CoordObject(name, "bbox_2d", far) for name in ("cell", "dog", "cow", "emu")]
    evaluation = answered(kitchen.cook(), tmp_path / "annotations.json", cut_encoder, {1: said})
    counts = evaluation.report.detection
    assert (counts.false_positives, counts.ignored, evaluation.report.left_out) == (2, 1, 1)


def change(cooked: Cooked, metadata: Any) -> None:
    path = cooked.folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(line | {"metadata": metadata}) + "\n" for line in lines))


@pytest.mark.invariant("EVAL-046")
@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "3 of 3 records name no image of"),
        ({"image_id": 1.5}, "metadata.image_id is missing, or neither an integer nor a text"),
        ({"image_id": "1"}, "3 image ids of the records are not in"),
        ({"image_id": 1}, "an image is answered once"),
    ],
)
def test_records_that_the_file_does_not_know_are_refused(
    kitchen: Kitchen, checkpoint: Path, tmp_path: Path, capsys: Any, metadata: Any, words: str
) -> None:
    fill(kitchen)
    cooked = kitchen.cook()
    change(cooked, metadata)
    given = ["--config", str(CONFIG), "--checkpoint", str(checkpoint), "--jsonl", str(cooked.folder / "records.jsonl")]
    given += ["--annotations", str(tmp_path / "annotations.json"), "--out", str(tmp_path / "e")]
    assert main(given) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("evaluate: ") and words in last and "annotations.json" in last
    assert not (tmp_path / "e").exists()


@pytest.mark.invariant("EVAL-046")
def test_another_file_than_the_records_were_cooked_from_is_refused(kitchen: Kitchen, tmp_path: Path) -> None:
    fill(kitchen)
    cooked = kitchen.cook()
    jsonl, other = cooked.folder / "records.jsonl", tmp_path / "other.json"
    other.write_text((tmp_path / "annotations.json").read_text() + "\n")
    records = list(read_records(jsonl))
    with pytest.raises(EvaluationError) as refused:
        read_annotations(other, jsonl, records)
    assert json.loads((cooked.folder / "manifest.json").read_text())["annotations_sha256"] in str(refused.value)
    assert str(other) in str(refused.value) and str(cooked.folder / "manifest.json") in str(refused.value)
    (cooked.folder / "manifest.json").unlink()
    assert read_annotations(other, jsonl, records[:2]).images_without_record == 1
    (cooked.folder / "manifest.json").write_text("[1]")
    assert len(read_annotations(other, jsonl, records).truths) == 3
    strange = replace(records[0], objects=(replace(records[0].objects[0], desc="elk"),))
    with pytest.raises(EvaluationError, match=r"desc 'elk' is the name of no category of .*other\.json"):
        read_annotations(other, jsonl, [strange])


@pytest.mark.invariant("EVAL-045")
@pytest.mark.invariant("EVAL-044")
def test_the_command_compares_with_the_file_or_says_that_it_did_not(
    kitchen: Kitchen, checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    fill(kitchen)
    cooked = kitchen.cook()
    given = ["--config", str(CONFIG), "--checkpoint", str(checkpoint), "--jsonl", str(cooked.folder / "records.jsonl")]
    given += ["--max-new-tokens", "4", "--out", str(tmp_path / "e [v2]")]
    annotations = tmp_path / "annotations.json"
    assert main([*given, "--annotations", str(annotations)]) == 0
    shown = capsys.readouterr().out
    assert f"compared with {annotations}, in its own pixels" in shown
    assert "ceiling: a perfect answer in 1000 bins scores mAP " in shown
    assert json.loads((tmp_path / "e [v2]/coco_results.json").read_text()) == []
    assert json.loads((tmp_path / "e [v2]/report.json").read_text())["ceiling"]["f1"] == 1.0
    assert main(given) == 0
    shown = capsys.readouterr().out
    assert "compared with the records, in 1000 bins of the cooked images" in shown and "ceiling" not in shown
    assert not (tmp_path / "e [v2]/coco_results.json").exists(), "what an earlier evaluation left is removed"
    assert json.loads((tmp_path / "e [v2]/report.json").read_text())["truth"] == "records"
