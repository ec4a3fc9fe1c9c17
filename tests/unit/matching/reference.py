"""Matching in plain loops, from the same words: one object, one pair, one pixel at a time.

In: objects as CoordObject; out: fractions, bitmaps and pairs that share no line with `coordexp.matching`.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from coordexp.coords.types import CoordObject
from coordexp.matching.types import MatchSettings

SETTINGS = MatchSettings(candidate_top_k=5, maskiou_gate=0.3, maskiou_resolution=256, fp_cost=0.5, fn_cost=2.0)
Pairs = list[tuple[int, int]]


def box(*bins: int, desc: str = "cat") -> CoordObject:
    return CoordObject(desc, "bbox_2d", bins)


def poly(*bins: int, desc: str = "cat") -> CoordObject:
    return CoordObject(desc, "poly", bins)


def around(obj: CoordObject) -> tuple[int, int, int, int]:
    xs, ys = obj.bins[0::2], obj.bins[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def box_iou(one: CoordObject, other: CoordObject) -> Fraction:
    a, b = around(one), around(other)
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner
    return Fraction(inner, union) if union else Fraction(0)


def candidates(prediction: CoordObject, truths: Sequence[CoordObject], top_k: int) -> list[int]:
    overlap = [box_iou(prediction, truth) for truth in truths]
    if any(overlap):
        return sorted(range(len(truths)), key=lambda j: (-overlap[j], j))[:top_k]
    x1, y1, x2, y2 = around(prediction)
    distance = []
    for truth in truths:
        u1, v1, u2, v2 = around(truth)
        distance.append((x1 + x2 - u1 - u2) ** 2 + (y1 + y2 - v1 - v2) ** 2)
    return sorted(range(len(truths)), key=lambda j: (distance[j], j))[:top_k]


def bitmap(obj: CoordObject, side: int) -> np.ndarray:
    bins = obj.bins
    if obj.kind == "bbox_2d":
        x1, y1, x2, y2 = bins
        bins = (x1, y1, x2, y1, x2, y2, x1, y2)
    ring = [k * (side - 1) / 999 for k in bins]
    with warnings.catch_warnings():
        # pycocotools 2.0.11 hands out decoded masks in a way that numpy deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco_mask.decode(coco_mask.frPyObjects([ring], side, side)[0]).astype(bool)


def mask_iou(one: CoordObject, other: CoordObject, side: int) -> float:
    first, second = bitmap(one, side), bitmap(other, side)
    if first.any() and second.any():
        return int((first & second).sum()) / int((first | second).sum())
    return 1.0 if around(one) == around(other) else float(box_iou(one, other))


def feasible_costs(
    predictions: Sequence[CoordObject], truths: Sequence[CoordObject], settings: MatchSettings
) -> tuple[np.ndarray, int]:
    """Cost of each pair, infinite where there can be none, and how many candidate pairs the gate kept apart."""
    costs = np.full((len(predictions), len(truths)), np.inf)
    gated = 0
    for i, prediction in enumerate(predictions):
        for j in candidates(prediction, truths, settings.candidate_top_k):
            iou = mask_iou(prediction, truths[j], settings.maskiou_resolution)
            if iou >= settings.maskiou_gate and iou > 0:
                costs[i, j] = 1.0 - iou
            else:
                gated += 1
    return costs, gated


def solver_choice(costs: np.ndarray, fp_cost: float, fn_cost: float) -> Pairs:
    """What scipy picks on predictions, then dummies, against ground truths, then dummies."""
    rows, columns = costs.shape
    if not rows or not columns:
        return []
    square = [[*costs[i], *[fp_cost] * rows] for i in range(rows)] + [
        [*[fn_cost] * columns, *[0.0] * rows] for _ in range(columns)
    ]
    chosen = zip(*linear_sum_assignment(np.array(square)), strict=True)
    return [(int(i), int(j)) for i, j in chosen if i < rows and j < columns]


def partial_assignments(rows: int, columns: int) -> Iterator[Pairs]:
    for size in range(min(rows, columns) + 1):
        for some in itertools.combinations(range(rows), size):
            for other in itertools.permutations(range(columns), size):
                yield list(zip(some, other, strict=True))


def total(costs: np.ndarray, pairs: Pairs, fp_cost: float, fn_cost: float) -> float:
    """Cost of an assignment: its pairs, and whoever is left alone."""
    rows, columns = costs.shape
    return sum(costs[i, j] for i, j in pairs) + fp_cost * (rows - len(pairs)) + fn_cost * (columns - len(pairs))
