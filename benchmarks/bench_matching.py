"""Matching 60 predictions with 60 ground truths beside one batched run-length encoding and one assignment of the same.

The reference draws all objects in one call, takes every IoU in another, and solves the 60 x 60 assignment of them: no
candidates, no gate, no costs of being alone, no rule for empty masks. Both begin with objects in bins; rounds alternate
in one process, and the medians of their CPU times are compared.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment

from coordexp.coords.types import CoordObject
from coordexp.matching.objects import match_objects
from coordexp.matching.types import MatchSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

OBJECTS, ROUNDS, REPEATS, BAR = 60, 40, 5, 1.2
RESOLUTION, TOP_K = 256, 5
CORNERS = (0, 1, 2, 1, 2, 3, 0, 3)
Answers = tuple[list[CoordObject], list[CoordObject]]


def draw_boxes(seed: int = 0) -> Answers:
    """Predictions and ground truths of `OBJECTS` boxes; each prediction is a ground truth moved by up to 15 bins."""
    rng = np.random.default_rng(seed)
    truths = np.sort(rng.integers(0, 1000, (OBJECTS, 2, 2)), axis=2)
    moved = np.sort(np.clip(truths + rng.integers(-15, 16, truths.shape), 0, 999), axis=2)
    found = [
        [CoordObject("thing", "bbox_2d", (int(x[0]), int(y[0]), int(x[1]), int(y[1]))) for x, y in sides]
        for sides in (moved, truths)
    ]
    return found[0], found[1]


def draw_polygons(points: int, seed: int = 0) -> Answers:
    """The same with polygons of `points` points on the ellipse in each box."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.random((OBJECTS, points)) * 2 * np.pi, axis=1)
    found = []
    for boxes in draw_boxes(seed):
        rings = []
        for obj, turn in zip(boxes, angles, strict=True):
            x1, y1, x2, y2 = obj.bins
            xs, ys = x1 + (x2 - x1) * (1 + np.cos(turn)) / 2, y1 + (y2 - y1) * (1 + np.sin(turn)) / 2
            ring = np.stack([xs, ys], axis=1).round().astype(int).ravel().tolist()
            rings.append(CoordObject("thing", "poly", tuple(ring)))
        found.append(rings)
    return found[0], found[1]


def reference(predictions: Sequence[CoordObject], truths: Sequence[CoordObject]) -> Any:
    """Every mask in one call, every IoU in another, one assignment."""
    objects = [*predictions, *truths]
    rings = [[obj.bins[i] for i in CORNERS] if obj.kind == "bbox_2d" else obj.bins for obj in objects]
    scaled = [(np.array(ring) * (RESOLUTION - 1) / 999).tolist() for ring in rings]
    masks = coco_mask.frPyObjects(scaled, RESOLUTION, RESOLUTION)
    iou = coco_mask.iou(masks[: len(predictions)], masks[len(predictions) :], [0] * len(truths))
    return linear_sum_assignment(iou, maximize=True)


def compare(answers: Answers, top_k: int) -> dict[str, float]:
    """Milliseconds of the reference and of `match_objects`, and the second over the first."""
    settings = MatchSettings(
        candidate_top_k=top_k, maskiou_gate=0.3, maskiou_resolution=RESOLUTION, fp_cost=0.5, fn_cost=2.0
    )
    paths = {"reference": lambda: reference(*answers), "matching": lambda: match_objects(*answers, settings)}
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(ROUNDS):
        for name, path in paths.items():
            start = time.process_time()
            for _ in range(REPEATS):
                path()
            seconds[name].append((time.process_time() - start) / REPEATS)
    taken = {name: statistics.median(times) * 1e3 for name, times in seconds.items()}
    return {**taken, "ratio": taken["matching"] / taken["reference"]}


def run() -> dict[str, Any]:
    """Ratios by kind of geometry and number of candidates; `passes` compares the largest with the bar."""
    boxes, polygons = draw_boxes(), draw_polygons(8)
    kinds = {
        "boxes": boxes,
        "polygons of 8 points": polygons,
        "polygons of 40 points": draw_polygons(40),
        "boxes against polygons": (boxes[0], polygons[1]),
    }
    table = Table("geometry", "candidates", "reference, ms", "matching, ms", "ratio", title=f"{OBJECTS} x {OBJECTS}")
    rows: dict[str, dict[str, float]] = {}
    for kind, answers in kinds.items():
        for top_k in (TOP_K, OBJECTS):
            row = compare(answers, top_k)
            rows[f"{kind}, top {top_k}"] = row
            table.add_row(kind, str(top_k), *(f"{row[name]:.2f}" for name in ("reference", "matching", "ratio")))
    Console().print(table)
    worst = max(row["ratio"] for row in rows.values())
    return {"rows": rows, "ratio": worst, "bar": BAR, "passes": worst <= BAR}


if __name__ == "__main__":
    run()
