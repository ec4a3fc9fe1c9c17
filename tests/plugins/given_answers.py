"""Records with answers of every kind, their annotation file, and files of answers to score without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.evaluation_files import EvaluatedFiles
from coordexp.coordjson import render_answer
from coordexp.coords.types import CoordObject
from coordexp.data.records import read_records
from coordexp.evaluation.annotated import read_annotations
from coordexp.evaluation.runner import GenerationSettings, evaluate_model
from coordexp.evaluation.sampling import SampleSettings
from coordexp.rollout.types import Decoding
from coordexp.spec import check
from tests.plugins.found_files import Kitchen
from tests.plugins.reciter import Reciter

if TYPE_CHECKING:
    from coordexp.encode.encoder import Encoder


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


def written(kitchen: Kitchen, rows: Any, folder: Path) -> tuple[Path, Path]:
    """An annotation file and results, as JSON."""
    annotations, results = folder / "annotations.json", folder / "detector [v2] ü.json"
    annotations.write_text(json.dumps(kitchen.coco), encoding="utf-8")
    results.write_text(json.dumps(rows), encoding="utf-8")
    return annotations, results
