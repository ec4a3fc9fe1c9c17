"""The ceiling of a report is the score of a perfect answer, and says what keeps it below 1."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp.coords.types import CoordObject
from coordexp.data.cooking import cook
from coordexp.data.cooking_types import CookOptions, CookSource
from coordexp.data.records import read_records
from coordexp.data.types import Record
from coordexp.evaluation.annotated import read_annotations
from coordexp.evaluation.ceiling import add_ceiling
from coordexp.evaluation.detections import build_truth
from coordexp.evaluation.report import evaluate_detections, render_report
from coordexp.evaluation.summary import render_ceiling
from coordexp.evaluation.types import Detection, DetectionReport, ImagePrediction, ImageTruth

CASES = Path(__file__).parents[3] / "fixtures/cases"
NUMBERS = ("mAP", "mAP50", "mAP75")


def cooked(folder: Path, case: str, max_pixels: int) -> tuple[list[Record], Path, Path]:
    annotations = CASES / case / "annotations.json"
    cook(CookSource(annotations, CASES / case), folder / "out", CookOptions(max_pixels))
    jsonl = folder / "out/records.jsonl"
    return list(read_records(jsonl)), annotations, jsonl


def nothing_said(truth: Any, records: list[Record]) -> DetectionReport:
    report = evaluate_detections(truth, [ImagePrediction(image.sample_id, ()) for image in truth])
    return add_ceiling(report, truth, records)


def said_perfectly(record: Record, image: ImageTruth, score: float = 0.9) -> ImagePrediction:
    """The objects of the record, bin by bin, scaled to the pixels of the truth: nothing of the product's own."""
    own, scale = build_truth(record), (image.width / record.width, image.height / record.height) * 2
    found = [
        Detection(obj.desc, tuple(v * s for v, s in zip(obj.box, scale, strict=True)), score)  # type: ignore[arg-type]
        for obj in own.objects
    ]
    return ImagePrediction(image.sample_id, tuple(found))


def check_reached(truth: Any, records: list[Record]) -> DetectionReport:
    report = nothing_said(truth, records)
    assert report.ceiling is not None
    perfect = evaluate_detections(truth, [said_perfectly(r, t) for r, t in zip(records, truth, strict=True)])
    assert {name: perfect.coco.summary[name] for name in NUMBERS} == report.ceiling.summary
    assert {name: perfect.coco.unlimited[name] for name in NUMBERS} == report.ceiling.unlimited
    assert perfect.detection.f1 == report.ceiling.f1
    return report


@pytest.mark.invariant("EVAL-044")
@pytest.mark.parametrize(
    ("case", "max_pixels", "annotated", "numbers", "without_area", "unmatchable", "over"),
    [
        ("e1-small-in-large", 3_100_000, True, (0.452, 1.0, 0.097), 0, 0, 0),
        ("e1-small-in-large", 3_100_000, False, (1.0, 1.0, 1.0), 0, 0, 0),
        ("e2-300-objects", 400_000, False, (0.337, 0.337, 0.337), 0, 0, 1),
        ("e3-large-image", 12_100_000, True, (0.0, 0.0, 0.0), 0, 10, 0),
        ("e3-large-image", 12_100_000, False, (1.0, 1.0, 1.0), 0, 0, 0),
        ("e4-no-area-in-bins", 3_100_000, False, (0.505, 0.505, 0.505), 1, 1, 0),
    ],
)
def test_a_perfect_answer_scores_the_stated_ceiling(
    tmp_path: Path,
    case: str,
    max_pixels: int,
    annotated: bool,
    numbers: tuple[float, ...],
    without_area: int,
    unmatchable: int,
    over: int,
) -> None:
    records, annotations, jsonl = cooked(tmp_path, case, max_pixels)
    truth = read_annotations(annotations, jsonl, records).truths if annotated else [build_truth(r) for r in records]
    report = check_reached(truth, records)
    ceiling = render_report(report)["ceiling"]
    assert [ceiling[name] for name in NUMBERS] == pytest.approx(numbers, abs=5e-4)
    counts = [ceiling[key] for key in ("objects_without_area", "objects_unmatchable", "images_over_limit")]
    assert counts == [without_area, unmatchable, over]
    assert report.truth == ("annotations" if annotated else "records")
    line = render_ceiling(report)
    assert (line is None) == (numbers == (1.0, 1.0, 1.0))
    if line is not None:
        assert f"a perfect answer in 1000 bins scores mAP {numbers[0]:.3f} · mAP@.5 {numbers[1]:.3f}" in line
        assert ("no answer can match" in line, "COCO counts no more" in line) == (bool(unmatchable), bool(over))
    if over:
        assert ceiling["unlimited"] == pytest.approx(dict.fromkeys(NUMBERS, 1.0))


@pytest.mark.invariant("EVAL-043")
def test_the_limit_is_stated_with_the_images_over_it_and_the_numbers_without(tmp_path: Path) -> None:
    records, *_ = cooked(tmp_path, "e2-300-objects", 400_000)
    truth = [build_truth(record) for record in records]
    report = render_report(evaluate_detections(truth, [said_perfectly(records[0], truth[0])]))
    assert report["coco"]["mAP"] == pytest.approx(0.337, abs=5e-4)
    assert report["coco_limit"] == {"detections": 100, "images_over": 1}
    assert report["coco_unlimited"] == pytest.approx(dict.fromkeys(report["coco_unlimited"], 1.0) | {
        name: value for name, value in report["coco_unlimited"].items() if value is None
    })  # fmt: skip
    assert report["coco_unlimited"]["mAP"] == pytest.approx(1.0)


@pytest.mark.invariant("EVAL-044")
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), side=st.integers(40, 5000))
def test_any_records_reach_their_ceiling_against_any_annotations(
    tmp_path_factory: pytest.TempPathFactory, seed: int, side: int
) -> None:
    """Splits, duplicates, objects outside, without area and of a pixel, many of a kind, in images of any size."""
    rng, folder = random.Random(seed), tmp_path_factory.mktemp("any")
    records, rows, images = [], [], []
    for number in range(1, rng.randint(2, 4)):
        size, shown = (side, max(1, side // rng.randint(1, 3))), (rng.choice([32, 64, 640]), rng.choice([32, 96]))
        images.append({"id": number, "file_name": f"{number}.png", "width": size[0], "height": size[1]})
        objects = []
        for _ in range(rng.choice([0, 1, 4, 120])):
            x, y = rng.uniform(-5, size[0]), rng.uniform(-5, size[1])
            box = [x, y, rng.choice([0.0, 1.0, 8.0, side / 3]), rng.choice([1.0, 8.0, side / 4])]
            kind = rng.randint(1, 2)
            row = {"id": len(rows) + 1, "image_id": number, "category_id": kind, "bbox": box}
            rows.append(row | {"area": box[2] * box[3], "iscrowd": int(rng.random() < 0.1)})
            bins = [
                min(999, max(0, round(999 * edge / extent)))
                for edge, extent in zip((x, y, x + box[2], y + box[3]), size * 2, strict=True)
            ]
            if rng.random() < 0.9:
                objects.append(CoordObject(("cat", "dog")[kind - 1], "bbox_2d", tuple(bins)))
        metadata = {"image_id": number, "split": rng.choice(["odd", "even"])}
        records.append(Record(f"r.jsonl:{number}", (f"{number}.png",), *shown, tuple(objects), metadata=metadata))
    kinds = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": kinds}))
    truth = read_annotations(path, folder / "r.jsonl", records).truths
    report = check_reached(truth, records)
    check_reached([build_truth(record) for record in records], records)
    for name, split in report.splits.items():
        own = [image for image in truth if image.split == name]
        chosen = [record for record in records if record.metadata["split"] == name]
        assert split.ceiling == nothing_said(own, chosen).ceiling
    render_report(report)
