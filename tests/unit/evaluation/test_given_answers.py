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

from coordexp.artifacts.evaluation_files import EvaluatedFiles, write_evaluation
from coordexp.coordjson import render_answer
from coordexp.coords.types import CoordObject
from coordexp.data.records import read_records
from coordexp.entrypoints.evaluate import main
from coordexp.evaluation.annotated import read_annotations
from coordexp.evaluation.coco import SUMMARY_NAMES
from coordexp.evaluation.names import CategoryNames
from coordexp.evaluation.report import evaluate_detections, render_report
from coordexp.evaluation.runner import GenerationSettings, evaluate_model
from coordexp.evaluation.sampling import SampleSettings
from coordexp.evaluation.summary import render_names
from coordexp.evaluation.types import Detection, ImagePrediction, ImageTruth
from coordexp.rollout.types import Decoding
from coordexp.spec import check
from tests.plugins.found_files import Kitchen, kitchen
from tests.plugins.reciter import Reciter

if TYPE_CHECKING:
    from coordexp.encode.encoder import Encoder

__all__ = ["kitchen"]


def fill(kitchen: Kitchen) -> None:
    """Images that are scaled differently in splits of their own, three categories, a crowd, an empty image."""
    kitchen.coco["categories"] = [
        {"id": 7, "name": "cell"},
        {"id": 3, "name": "dish  tray"},
        {"id": 4, "name": "Traffic_Light"},
    ]
    kitchen.add("a.png", [10, 20, 30, 40], [100.3, 99.9, 20, 22], size=(200, 150), category_id=7)
    kitchen.add("b [1] ü.PNG", [10, 20, 90, 40], size=(333, 64), category_id=3, area=50.0)
    kitchen.coco["annotations"].append(
        {"id": 9, "image_id": 2, "category_id": 7, "bbox": [150, 5, 100, 55], "iscrowd": 1, "area": 5500}
    )
    kitchen.add("c.png", size=(64, 64))
    kitchen.add("d.png", [5, 5, 30, 40], size=(64, 64), category_id=4)
    for annotation in kitchen.coco["annotations"]:
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
        annotation.setdefault("iscrowd", 0)


def cooked(kitchen: Kitchen, folder: Path) -> tuple[Path, Path, EvaluatedFiles]:
    """Records with splits, their annotation file, and what an evaluation is about; only bytes of weights are there."""
    fill(kitchen)
    jsonl = kitchen.cook("--max-pixels", "9216").folder / "records.jsonl"
    lines = [json.loads(line) for line in jsonl.read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines):
        line["metadata"]["split"] = ("first", "second")[number % 2]
    jsonl.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint/model.safetensors").write_bytes(b"weights")
    return jsonl, folder / "annotations.json", EvaluatedFiles(folder / "checkpoint", jsonl)


def spoken(encoder: Encoder, jsonl: Path, annotations: Path | None) -> Any:
    """An evaluation of answers with every fault, with a sampled answer each."""
    records = list(read_records(jsonl))
    said = {record.source: render_answer(record.objects) for record in records}
    far = CoordObject("gremlin", "bbox_2d", (1, 1, 90, 90))
    light = CoordObject("traffic light", "bbox_2d", (90, 90, 500, 700))
    said[records[0].source] = render_answer((records[0].objects[0], far, far))[:-2] + ', {"desc": ""}], '
    said[records[2].source] = "no answer"
    said[records[3].source] = render_answer((light, CoordObject("DISH-TRAY", "bbox_2d", (1, 1, 90, 99))))
    settings = GenerationSettings(
        Decoding(200), "constant", samples=SampleSettings(1, Decoding(200, temperature=0.7)).seeded(3)
    )
    read = None if annotations is None else read_annotations(annotations, jsonl, records)
    return evaluate_model(Reciter(encoder, said), encoder, records, settings, annotations=read)


def numbers(folder: Path) -> dict[str, Any]:
    report = check("evaluation-report", json.loads((folder / "report.json").read_text(encoding="utf-8")))
    return {key: value for key, value in report.items() if key != "provenance"}


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


def written(kitchen: Kitchen, rows: Any, folder: Path) -> tuple[Path, Path]:
    """An annotation file and results, as JSON."""
    annotations, results = folder / "annotations.json", folder / "detector [v2] ü.json"
    annotations.write_text(json.dumps(kitchen.coco), encoding="utf-8")
    results.write_text(json.dumps(rows), encoding="utf-8")
    return annotations, results


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


SOUND = {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}
FAULTS: dict[str, tuple[Any, str]] = {
    "unknown image": (
        [SOUND, SOUND | {"image_id": 99}, SOUND | {"image_id": 98}],
        "2 of 3 results have image_ids that the annotation file lacks: 99 in [1], 98 in [2]",
    ),
    "many unknown images": (
        [SOUND | {"image_id": n} for n in range(50, 60)],
        "50 in [0], 51 in [1], 52 in [2] and 7 more",
    ),
    "image id as text": ([SOUND | {"image_id": "1"}], "image_ids are texts here and numbers there, which never match"),
    "unknown category": ([SOUND | {"category_id": 70}], "have category_ids that the annotation file lacks: 70 in [0]"),
    "no score": ([SOUND, {k: v for k, v in SOUND.items() if k != "score"}], "[1].score (image id 1): missing"),
    "score as text": ([SOUND | {"score": "0.5"}], "[0].score (image id 1): a score is a number, got the text"),
    "score null": ([SOUND | {"score": None}], "[0].score (image id 1): a score is a number, got null"),
    "NaN": ("[" + json.dumps(SOUND | {"score": float("nan")}) + "]", "NaN is not a number in JSON"),
    "infinite": ("[" + json.dumps(SOUND | {"score": float("inf")}) + "]", "Infinity is not a number in JSON"),
    "too large": (
        '[{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 1e999}]',
        "larger than any number",
    ),
    "negative width": (
        [SOUND | {"bbox": [9, 9, -3, 4]}],
        "[0].bbox (image id 1): width and height are 0 or more, got [9, 9, -3, 4]",
    ),
    "three numbers": (
        [SOUND | {"bbox": [9, 9, 3]}],
        "[0].bbox (image id 1): it is a list of four numbers, got 3: [9, 9, 3]",
    ),
    "text in a box": ([SOUND | {"bbox": [9, 9, "3", 4]}], "[0].bbox[2] (image id 1): a number in pixels, got the text"),
    "beyond": ([SOUND | {"bbox": [9, 9, 3e9, 4]}], "[0].bbox[2] (image id 1): a number in pixels"),
    "masks alone": (
        [{"image_id": 1, "category_id": 7, "segmentation": [[1, 2, 3, 4, 5, 6]], "score": 0.5}],
        "[0].bbox (image id 1): missing, though there is a segmentation: no box is guessed",
    ),
    "no category": (
        [{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5, "category_name": "cell"}],
        "[0].category_id (image id 1): missing",
    ),
    "half an id": ([SOUND | {"image_id": 1.5}], "[0].image_id"),
    "no object": ([SOUND, 5], "[1]: it is an object, got 5"),
    "cut short": (json.dumps([SOUND])[:-9], "the file ends in the middle"),
    "an object": ({"results": [SOUND]}, "no line of an evaluation"),
    "an object of annotations": ({"annotations": [SOUND]}, "they are COCO annotations, what to compare with"),
    "annotations": (
        {"images": [], "annotations": [], "categories": []},
        "they are COCO annotations, what to compare with",
    ),
    "indented": ("{\n}", "no JSON"),
    "empty": ("", "holds no line"),
}


@pytest.mark.invariant("EVAL-089")
@pytest.mark.parametrize(("content", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_file_that_cannot_be_scored_is_refused_by_its_place(
    kitchen: Kitchen, tmp_path: Path, capsys: Any, content: Any, message: str
) -> None:
    fill(kitchen)
    annotations, results = written(kitchen, content, tmp_path)
    if isinstance(content, str):
        results.write_text(content, encoding="utf-8")
    given = ["--predictions", str(results), "--annotations", str(annotations), "--out", str(tmp_path / "e")]
    assert main(given) == 1
    said = capsys.readouterr().err
    assert said.startswith("evaluate: ") and said.count("\n") == 1 and "Traceback" not in said
    assert str(results) in said and message in said
    assert not (tmp_path / "e").exists()


@pytest.mark.invariant("EVAL-089")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines, lines[0]], ":5: answers "),
        (
            lambda lines: [lines[0], lines[1].replace('"width": 333', '"width": NaN')],
            ":2: no JSON: NaN is not a number",
        ),
        (lambda lines: [lines[0], lines[1].replace('"width": 333', '"width": 1e999')], ":2: no JSON: 1e999 is larger"),
        (lambda lines: [lines[0], lines[1].replace('"score": 1.0', '"score": "1"')], ":2: no line of an evaluation"),
        (
            lambda lines: [lines[0], lines[1].replace('"constant"', '"given"')],
            "scores of several kinds: constant, given",
        ),
        (lambda lines: ["[" + ", ".join(lines) + "]"], "[0].image_id"),
    ],
    ids=["a line twice", "NaN", "infinite", "a score as text", "two kinds of scores", "lines as a list"],
)
def test_a_line_that_is_none_of_an_evaluation_is_refused(
    kitchen: Kitchen, cut_encoder: Encoder, tmp_path: Path, capsys: Any, change: Any, message: str
) -> None:
    jsonl, annotations, about = cooked(kitchen, tmp_path)
    made = write_evaluation(tmp_path / "e", spoken(cut_encoder, jsonl, annotations), about) / "predictions.jsonl"
    made.write_text("\n".join(change(made.read_text(encoding="utf-8").splitlines())), encoding="utf-8")
    assert main(["--predictions", str(made), "--annotations", str(annotations), "--jsonl", str(jsonl)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"evaluate: {made}") and message in said and said.count("\n") == 1


@pytest.mark.invariant("EVAL-089")
def test_a_turned_box_other_records_and_the_file_itself_are_refused(
    kitchen: Kitchen, cut_encoder: Encoder, tmp_path: Path, capsys: Any
) -> None:
    jsonl, _, about = cooked(kitchen, tmp_path)
    made = write_evaluation(tmp_path / "e", spoken(cut_encoder, jsonl, None), about) / "predictions.jsonl"
    kept = made.read_bytes()
    assert main(["--predictions", str(made), "--limit", "1", "--out", str(made.parent)]) == 1
    assert "predictions.jsonl there is the file that is read, and would be lost" in capsys.readouterr().err
    assert made.read_bytes() == kept
    other = tmp_path / "other.jsonl"
    lines = jsonl.read_text(encoding="utf-8").splitlines()
    other.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n", encoding="utf-8")
    assert main(["--predictions", str(made), "--jsonl", str(other)]) == 1
    assert "and line 1 there is another record; give the file that was answered" in capsys.readouterr().err
    other.write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    assert main(["--predictions", str(made), "--jsonl", str(other)]) == 1
    assert "and line 3 there is missing" in capsys.readouterr().err
    first, *rest = (json.loads(line) for line in kept.decode().splitlines())
    x1, y1, x2, y2 = first["predictions"][0]["box"]
    first["predictions"][0]["box"] = [x2, y1, x1, y2]
    made.write_text("\n".join(map(json.dumps, [first, *rest])), encoding="utf-8")
    assert main(["--predictions", str(made)]) == 1
    assert f"{made}:1: the box [{x2}, {y1}, {x1}, {y2}] is x1, y1, x2, y2 with x1 > x2" in capsys.readouterr().err


@pytest.mark.invariant("EVAL-090")
@pytest.mark.parametrize(
    "flags",
    [
        ("--config", "c.yaml"),
        ("--checkpoint", "c"),
        ("--max-new-tokens", "512"),
        ("--batch-size", "32"),
        ("--scores", "confidence"),
        ("--grammar",),
        ("--samples", "2"),
        ("--temperature", "0"),
        ("--top-p", "1"),
        ("--top-k", "1"),
        ("--batch-size", "0", "--grammar"),
    ],
    ids=" ".join,
)
def test_options_of_generation_are_refused_by_name(tmp_path: Path, capsys: Any, flags: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--predictions", str(tmp_path / "predictions.jsonl"), *flags])
    names = ", ".join(flag for flag in flags if flag.startswith("--"))
    assert stopped.value.code == 2
    assert f"{names}: --predictions FILE makes no answers" in capsys.readouterr().err


@pytest.mark.invariant("EVAL-090")
def test_without_predictions_a_model_is_asked_for(capsys: Any) -> None:
    for flags, message in (
        ([], "--config and --checkpoint is needed, or --predictions FILE"),
        (["--config", "c.yaml"], "--checkpoint is needed"),
        (["--config", "c.yaml", "--checkpoint", "c", "--images", "d"], "--images: it is for COCO results"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(flags)
        assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.invariant("EVAL-090")
def test_what_does_not_go_together_is_refused(
    kitchen: Kitchen, cut_encoder: Encoder, tmp_path: Path, capsys: Any
) -> None:
    jsonl, annotations, about = cooked(kitchen, tmp_path)
    made = str(write_evaluation(tmp_path / "e", spoken(cut_encoder, jsonl, annotations), about) / "predictions.jsonl")
    results = str(tmp_path / "e/coco_results.json")
    images = ["--images", str(tmp_path / "images")]
    file = ["--annotations", str(annotations)]
    for flags, message in (
        ([results], "they are COCO results, which name images and categories by the ids of an annotation file"),
        ([results, *file, "--images", str(tmp_path / "none")], "no such folder"),
        ([results, *file, "--jsonl", str(jsonl), *images], "the images' places are known already"),
        ([results, *file, "--limit", "0"], "the limit must be at least 1, got 0"),
        ([made, *images], "the images' places are known already"),
        ([made, *file], "give them with --jsonl FILE too"),
        ([made, "--limit", "-1"], "the limit must be at least 1, got -1"),
        ([str(tmp_path / "none.json")], "cannot be read (No such file or directory)"),
        ([str(tmp_path)], "cannot be read (Is a directory)"),
        ([results, "--annotations", str(tmp_path / "none.json")], "cannot be read (No such file or directory)"),
        ([results, "--annotations", results], "COCO's results format"),
    ):
        assert main(["--predictions", *flags]) == 1
        said = capsys.readouterr().err
        assert message in said and said.startswith("evaluate: ") and said.count("\n") == 1


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
