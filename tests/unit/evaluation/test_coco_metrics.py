"""COCO numbers against cases worked out by hand, and against pycocotools fed through its own result loader."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coordexp.evaluation.coco import SUMMARY_NAMES, evaluate_coco
from coordexp.evaluation.types import Detection, ImagePrediction, ImageTruth
from coordexp.spec import load_cases

CASES = load_cases(Path(__file__).parents[3] / "fixtures/evaluation/coco_by_hand.json").cases


def build_case(data):
    truth = [
        ImageTruth(sample, 100, 100, tuple(Detection(name, tuple(map(float, box))) for name, box in objects))
        for sample, objects in data["truth"].items()
    ]
    found = {
        sample: ImagePrediction(sample, tuple(Detection(n, tuple(map(float, b)), s) for n, b, s in objects))
        for sample, objects in data["found"].items()
    }
    return truth, found


@pytest.mark.invariant("EVAL-003")
@pytest.mark.invariant("EVAL-004")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_numbers_worked_out_by_hand(case):
    summary = evaluate_coco(*build_case(case.input)).summary
    assert {name: summary[name] for name in case.expect} == pytest.approx(case.expect, abs=1e-9)


@pytest.mark.invariant("EVAL-003")
def test_all_twelve_numbers_equal_those_of_pycocotools_on_its_own_files():
    truth, found = random_set(seed=3, images=12)
    names = sorted({obj.desc for image in truth for obj in image.objects})
    boxes = [(i, obj) for i, image in enumerate(truth, 1) for obj in image.objects]
    theirs = COCO()
    theirs.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(1, len(truth) + 1)],
        "categories": [{"id": i} for i in range(1, len(names) + 1)],
        "annotations": [
            {
                "id": n,
                "image_id": i,
                "category_id": names.index(obj.desc) + 1,
                "bbox": xywh(obj.box),
                "iscrowd": 0,
                "area": xywh(obj.box)[2] * xywh(obj.box)[3],
            }
            for n, (i, obj) in enumerate(boxes, 1)
        ],
    }
    results = [
        {"image_id": i, "category_id": names.index(d.desc) + 1, "bbox": xywh(d.box), "score": d.score}
        for i, image in enumerate(truth, 1)
        for d in found[image.sample_id].detections
        if d.desc in names
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs.createIndex()
        oracle = COCOeval(theirs, theirs.loadRes(results), "bbox")
        oracle.evaluate()
        oracle.accumulate()
        oracle.summarize()
    ours = evaluate_coco(truth, found).summary
    assert [ours[name] for name in SUMMARY_NAMES] == pytest.approx(list(oracle.stats), abs=1e-12)
    assert 0.05 < ours["mAP"] < 0.95, "an extreme would prove little"


@pytest.mark.invariant("EVAL-003")
def test_ap_per_class_averages_to_map():
    truth, found = random_set(seed=4, images=10)
    metrics = evaluate_coco(truth, found)
    assert np.mean([ap for ap, _ in metrics.per_class.values()]) == pytest.approx(metrics.summary["mAP"])
    assert np.mean([ap50 for _, ap50 in metrics.per_class.values()]) == pytest.approx(metrics.summary["mAP50"])


def test_pycocotools_does_not_print(capfd):
    evaluate_coco(*random_set(seed=1, images=2))
    assert capfd.readouterr().out == ""


def xywh(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def random_set(seed: int, images: int):
    """Predictions that are jittered, renamed, missing or made up; all scores differ, so that no order is arbitrary."""
    rng = np.random.default_rng(seed)
    truth, found = [], {}
    for number in range(images):
        objects, detections = [], []
        for _ in range(int(rng.integers(1, 6))):
            x, y, w, h = rng.uniform(0, 300), rng.uniform(0, 300), rng.uniform(5, 150), rng.uniform(5, 150)
            name = str(rng.choice(["cat", "dog", "cow"]))
            objects.append(Detection(name, (x, y, x + w, y + h)))
            if rng.random() < 0.85:
                dx, dy = rng.normal(0, 0.08, 2) * (w, h)
                said = name if rng.random() < 0.8 else str(rng.choice(["cat", "dog", "emu"]))
                detections.append(Detection(said, (x + dx, y + dy, x + dx + w, y + dy + h), float(rng.random())))
        sample = f"{number:03d}"
        truth.append(ImageTruth(sample, 500, 500, tuple(objects)))
        found[sample] = ImagePrediction(sample, tuple(detections))
    return truth, found
