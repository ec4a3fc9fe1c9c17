"""COCO numbers of 2,000 images: `evaluate_coco`, which today runs pycocotools, beside pycocotools' own time inside it.

The bar (20 times pycocotools, docs/performance.md) needs another evaluator with equal numbers; until there is one,
this measures what the preparation around pycocotools costs.
"""

from __future__ import annotations

import time
from unittest.mock import patch

import numpy as np
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from coordexp.evaluation.coco import evaluate_coco
from coordexp.evaluation.types import Detection, ImagePrediction, ImageTruth

IMAGES, CLASSES, SIDE = 2000, 80, 640


def build_set(seed: int = 0) -> tuple[list[ImageTruth], dict[str, ImagePrediction]]:
    """About 14,000 boxes and 24,000 predictions, most of them jittered copies of the boxes."""
    rng = np.random.default_rng(seed)
    truth, found = [], {}
    for number in range(IMAGES):
        count, extra = int(rng.integers(1, 14)), int(rng.integers(0, 11))
        corner, size = rng.uniform(0, SIDE / 2, (count + extra, 2)), rng.uniform(8, SIDE / 2, (count + extra, 2))
        boxes = np.concatenate([corner, corner + size], axis=1)
        names = [f"class {c}" for c in rng.integers(0, CLASSES, count + extra)]
        said = boxes + rng.normal(0, 6, boxes.shape) * np.array([1, 1, 0, 0])
        sample = f"{number:06d}"
        objects = tuple(Detection(names[i], tuple(boxes[i].tolist())) for i in range(count))
        scores = rng.random(count + extra)
        detections = (Detection(names[i], tuple(said[i].tolist()), float(scores[i])) for i in range(count + extra))
        truth.append(ImageTruth(sample, SIDE, SIDE, objects))
        found[sample] = ImagePrediction(sample, tuple(detections))
    return truth, found


def run() -> dict[str, float]:
    """Measure once; print and return seconds and the share that is not pycocotools."""
    truth, found = build_set()
    inside = 0.0

    def timed(name: str):  # type: ignore[no-untyped-def]
        plain = getattr(COCOeval, name)

        def wrapped(self: COCOeval) -> None:
            nonlocal inside
            started = time.perf_counter()
            plain(self)
            inside += time.perf_counter() - started

        return patch.object(COCOeval, name, wrapped)

    started = time.perf_counter()
    with timed("evaluate"), timed("accumulate"), timed("summarize"):
        metrics = evaluate_coco(truth, found)
    seconds = time.perf_counter() - started
    boxes, predictions = sum(len(t.objects) for t in truth), sum(len(p.detections) for p in found.values())
    Console().print(
        f"{IMAGES} images, {boxes} boxes, {predictions} predictions: {seconds:.2f} s, "
        f"of which pycocotools {inside:.2f} s; mAP {metrics.summary['mAP']:.4f}"
    )
    return {"seconds": seconds, "pycocotools_seconds": inside, "preparation_share": 1 - inside / seconds}


if __name__ == "__main__":
    run()
