"""COCO average precision for boxes, by pycocotools or hotcoco. EVAL-003..EVAL-005, EVAL-042, EVAL-043, EVAL-085.

Ground truth and predictions enter in pixels, COCO's twelve numbers leave; an engine's printing is discarded.
pycocotools is quoted, hotcoco gives the same digits in a fraction of the time. Regions that are not scored enter as
crowds. Equal scores are ordered by content (sample id, then box, then description), so the result does not depend on
the order of the input; where the truth is an annotation file's, rows stand as in that file, and so do results made
elsewhere, so that pycocotools on the files themselves says the same.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import hotcoco
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coordexp.evaluation.matching import scored_predictions
from coordexp.evaluation.types import Box, CocoEngine, CocoMetrics, Detection, FileRow, ImagePrediction, ImageTruth

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DETECTIONS = (1, 10, 100)
"""COCO's limits: predictions of one image and category that count, the best first."""
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
UNLIMITED_NAMES = (*SUMMARY_NAMES[:6], "AR", *SUMMARY_NAMES[9:])
"""The same over all predictions, where one average recall is left."""
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_AT_50, _AT_75 = 0, 5


@dataclass(frozen=True, eq=False)
class CocoSets:
    """Truth and predictions as COCO's dictionaries, over the categories `names`, whose ids begin at 1."""

    names: tuple[str, ...]
    truth: dict[str, Any]
    found: dict[str, Any]
    most: int
    """Predictions of the image and category that has most."""
    per_image: Mapping[int, int]
    """The same for each image that has any."""


def evaluate_coco(
    ground_truth: Sequence[ImageTruth],
    predictions: Mapping[str, ImagePrediction],
    max_detections: tuple[int, int, int] = MAX_DETECTIONS,
    engine: CocoEngine = "pycocotools",
) -> CocoMetrics:
    """COCO's bbox metrics over `ground_truth`; `predictions` are looked up by sample id.

    Categories are the descriptions of the ground truth in alphabetical order; predictions with another one have no
    category and do not count here (they do in F1). Areas for small, medium and large are those of the annotation file,
    and otherwise of the boxes, in pixels of the image the model saw.
    """
    sets = build_coco_sets(ground_truth, predictions)
    limit = max_detections[-1]
    if not sets.names:
        return CocoMetrics(dict.fromkeys(SUMMARY_NAMES), {}, dict.fromkeys(UNLIMITED_NAMES), limit, engine=engine)
    # The first predictions are matched alike however many follow, so one pass serves the limits and none.
    limits = [*max_detections, max(limit, sets.most)]
    precision, recall = _ENGINES[engine](sets, limits)
    return CocoMetrics(
        dict(zip(SUMMARY_NAMES, _limited(precision, recall), strict=True)),
        _per_class(sets.names, precision[..., 2]),
        dict(zip(UNLIMITED_NAMES, [*_precisions(precision[..., 3]), *_recalls(recall[..., 3])], strict=True)),
        limit,
        sum(count > limit for count in sets.per_image.values()),
        engine,
    )


def evaluate_fast(ground_truth: Sequence[ImageTruth], predictions: Mapping[str, ImagePrediction]) -> CocoMetrics:
    """The same numbers by hotcoco, for evaluations that training waits for."""
    return evaluate_coco(ground_truth, predictions, engine="hotcoco")


def engine_version(engine: str) -> str:
    """The installed version of an engine."""
    return version(engine)


def _by_pycocotools(sets: CocoSets, limits: Sequence[int]) -> tuple[Any, Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(index_dataset(sets.truth), index_dataset(sets.found), "bbox")
        evaluator.params.maxDets = limits
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"], evaluator.eval["recall"]


def _by_hotcoco(sets: CocoSets, limits: Sequence[int]) -> tuple[Any, Any]:
    evaluator = hotcoco.COCOeval(hotcoco.COCO(sets.truth), hotcoco.COCO(sets.found), "bbox")
    evaluator.params.maxDets = list(limits)
    evaluator.evaluate()
    evaluator.accumulate()
    found: Any = evaluator.eval
    return found["precision"], found["recall"]


_ENGINES: Mapping[CocoEngine, Callable[[CocoSets, Sequence[int]], tuple[Any, Any]]] = {
    "pycocotools": _by_pycocotools,
    "hotcoco": _by_hotcoco,
}
"""Precision [IoU, recall, category, area, limit] and recall [IoU, category, area, limit] of each engine."""


def _limited(precision: Any, recall: Any) -> Iterator[float | None]:
    """COCO's twelve numbers from `precision` [IoU, recall, category, area, limit] and `recall` [IoU, category, area,
    limit].
    """
    yield from _precisions(precision[..., 2])
    yield from (_mean_known(recall[:, :, _ALL, number]) for number in (0, 1))
    yield from _recalls(recall[..., 2])


def _precisions(precision: Any) -> list[float | None]:
    every = precision[..., _ALL]
    return [
        *(_mean_known(part) for part in (every, every[_AT_50], every[_AT_75])),
        *(_mean_known(precision[..., size]) for size in (_SMALL, _MEDIUM, _LARGE)),
    ]


def _recalls(recall: Any) -> list[float | None]:
    return [_mean_known(recall[..., size]) for size in (_ALL, _SMALL, _MEDIUM, _LARGE)]


def _per_class(names: Sequence[str], precision: Any) -> dict[str, tuple[float | None, float | None]]:
    """AP and AP50 per category from `precision` [IoU, recall, category, area]."""
    own = (precision[:, :, number, _ALL] for number in range(len(names)))
    return {name: (_mean_known(part), _mean_known(part[_AT_50])) for name, part in zip(names, own, strict=True)}


def _mean_known(values: Any) -> float | None:
    """Mean of what COCO could measure; it writes -1 where there is no ground truth."""
    known = values[values > -1]
    return float(np.mean(known)) if known.size else None


def build_coco_sets(ground_truth: Sequence[ImageTruth], predictions: Mapping[str, ImagePrediction]) -> CocoSets:
    """COCO's dictionaries with every number a function of the content alone. Ids start at 1: pycocotools reads 0 as
    none.
    """
    images = sorted(ground_truth, key=_image_order)
    names = tuple(sorted({obj.desc for image in images for obj in image.objects}))
    category = {name: number for number, name in enumerate(names, 1)}
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        for kind, row, crowd in _truth_rows(image, category):
            truth.append(_annotation(len(truth), number, kind, row) | {"iscrowd": crowd})
        for detection in ranked_predictions(image, predictions.get(image.sample_id)):
            if detection.desc in category:
                bbox = file_box(detection)
                row = FileRow(bbox, bbox[2] * bbox[3], 0)
                kind = category[detection.desc]
                found.append(_annotation(len(found), number, kind, row) | {"iscrowd": 0, "score": detection.score})
    frame = {
        "images": [{"id": n, "width": image.width, "height": image.height} for n, image in enumerate(images, 1)],
        "categories": [{"id": number, "name": name} for name, number in category.items()],
    }
    counts = Counter((row["image_id"], row["category_id"]) for row in found)
    per_image: dict[int, int] = {}
    for (image_id, _), count in counts.items():
        per_image[image_id] = max(count, per_image.get(image_id, 0))
    most = max(per_image.values(), default=0)
    return CocoSets(names, {**frame, "annotations": truth}, {**frame, "annotations": found}, most, per_image)


def ranked_predictions(image: ImageTruth, answer: ImagePrediction | None) -> list[Detection]:
    """The predictions of an image that are scored, in the order in which COCO takes them."""
    if answer is None:
        return []
    known = scored_predictions(image, answer.detections)
    if answer.made_elsewhere:
        return sorted(known, key=lambda d: -d.score)
    return sorted(known, key=lambda d: (-d.score, d.box, d.desc))


def _image_order(image: ImageTruth) -> tuple[bool, float, str]:
    """Images of an annotation file in the order of their ids, as pycocotools takes them; others by sample id."""
    if image.annotated is None:
        return True, 0, image.sample_id
    own = image.annotated.image_id
    return (False, 0, own) if isinstance(own, str) else (False, own, "")


def _truth_rows(image: ImageTruth, category: Mapping[str, int]) -> list[tuple[int, FileRow, int]]:
    """Category, row and crowd flag of every object and region of an image; a region of any description is one in every
    category.
    """
    regions = [Detection(name, r.box) for r in image.ignore for name in (category if r.desc is None else (r.desc,))]
    if image.annotated is None:
        parts = (
            (sorted(part, key=lambda d: (d.box, d.desc)), crowd) for crowd, part in enumerate((image.objects, regions))
        )
        return [
            (category[d.desc], FileRow(xywh(d.box), _area(d.box), 0), crowd)
            for part, crowd in parts
            for d in part
            if d.desc in category
        ]
    named = [*((d.desc, 0) for d in image.objects), *((d.desc, 1) for d in regions)]
    rows = zip(named, image.annotated.rows, strict=True)
    kept = [(category[desc], row, crowd) for (desc, crowd), row in rows if desc in category]
    return sorted(kept, key=lambda item: item[1].place)


def _annotation(before: int, image: int, kind: int, row: FileRow) -> dict[str, Any]:
    return {"id": before + 1, "image_id": image, "category_id": kind, "bbox": list(row.bbox), "area": row.area}


def index_dataset(dataset: dict[str, Any]) -> COCO:
    """A dataset as pycocotools takes it; its printing is left to the caller."""
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def xywh(box: Box) -> Box:
    """Corners as COCO writes boxes: x, y, width, height."""
    x1, y1, x2, y2 = box
    return x1, y1, x2 - x1, y2 - y1


def file_box(detection: Detection) -> Box:
    """A detection's box as COCO writes it: the very numbers that it came with, where a results file gave them."""
    return xywh(detection.box) if detection.bbox is None else detection.bbox


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
