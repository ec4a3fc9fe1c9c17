"""COCO average precision for boxes through pycocotools. Contract ids: EVAL-003, EVAL-004, EVAL-005.

Ground truth and predictions enter in pixels, COCO's twelve numbers leave; pycocotools' printing is discarded. Equal
scores are ordered by content (sample id, then box, then description), so the result does not depend on the order of
the input.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coordexp.evaluation.types import Box, CocoMetrics, Detection, ImagePrediction, ImageTruth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SUMMARY_NAMES = (
    "mAP",
    "mAP50",
    "mAP75",
    "mAP_small",
    "mAP_medium",
    "mAP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
)


def evaluate_coco(ground_truth: Sequence[ImageTruth], predictions: Mapping[str, ImagePrediction]) -> CocoMetrics:
    """COCO's bbox metrics over `ground_truth`; `predictions` are looked up by sample id.

    Categories are the descriptions of the ground truth in alphabetical order; predictions with another one have no
    category and do not count here (they do in F1). Areas for small, medium and large are pixels of the image the
    model saw.
    """
    images = sorted(ground_truth, key=lambda image: image.sample_id)
    names = sorted({obj.desc for image in images for obj in image.objects})
    if not names:
        return CocoMetrics(dict.fromkeys(SUMMARY_NAMES), {})
    category = {name: number for number, name in enumerate(names, 1)}
    truth = _dataset(images, category, {image.sample_id: image.objects for image in images})
    found = _dataset(images, category, {key: value.detections for key, value in predictions.items()})
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(_index(truth), _index(found), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    summary = {name: _none_below_zero(value) for name, value in zip(SUMMARY_NAMES, evaluator.stats, strict=True)}
    return CocoMetrics(summary, _per_class(names, evaluator.eval["precision"]))


def _per_class(names: Sequence[str], precision: Any) -> dict[str, tuple[float | None, float | None]]:
    """AP and AP50 per category from `precision` [IoU, recall, category, area, max detections]: all areas, 100
    detections.
    """
    result = {}
    for number, name in enumerate(names):
        own = precision[:, :, number, 0, -1]
        result[name] = (_mean_known(own), _mean_known(own[0]))
    return result


def _mean_known(values: Any) -> float | None:
    known = values[values > -1]
    return float(np.mean(known)) if known.size else None


def _none_below_zero(value: float) -> float | None:
    return None if value < 0 else float(value)


def _dataset(
    images: Sequence[ImageTruth], category: Mapping[str, int], objects: Mapping[str, Sequence[Detection]]
) -> dict[str, Any]:
    """COCO's dictionary with every number a function of the content alone. Ids start at 1: pycocotools reads 0 as
    none.
    """
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        known = [obj for obj in objects.get(image.sample_id, ()) if obj.desc in category]
        for obj in sorted(known, key=lambda d: (-d.score, d.box, d.desc)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category[obj.desc],
                    "bbox": _xywh(obj.box),
                    "area": _area(obj.box),
                    "iscrowd": 0,
                    "score": obj.score,
                }
            )
    return {
        "images": [{"id": n, "width": image.width, "height": image.height} for n, image in enumerate(images, 1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in category.items()],
    }


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _xywh(box: Box) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
