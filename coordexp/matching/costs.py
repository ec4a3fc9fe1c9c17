"""Objects in bins become candidate pairs and the overlap of their masks. Contract ids: MATCH-003 to MATCH-005.

In: boxes and polygons in bins (norm1000); out: arrays [P, G] over predictions and ground truths.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from pycocotools import mask as coco_mask

from coordexp.geometry.boxes import Boxes, box_areas, box_centers, pairwise_iou
from coordexp.geometry.norm1000 import LAST_BIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from coordexp.coords.types import CoordObject

# A box as the polygon of its four corners: which of x1, y1, x2, y2 its numbers are.
_CORNERS = (0, 1, 2, 1, 2, 3, 0, 3)
# pycocotools' rasterizer counts in fifths of a pixel, and the third of them is a pixel's middle.
_FINE, _MIDDLE = 5, 2


def enclosing_boxes(objects: Sequence[CoordObject]) -> Boxes:
    """Axis-aligned boxes [N, 4] around the objects, in bins."""
    if not objects:
        return np.zeros((0, 4))
    points = np.array([*itertools.chain.from_iterable(obj.bins for obj in objects)], dtype=np.float64).reshape(-1, 2)
    starts = np.cumsum([0, *(len(obj.bins) // 2 for obj in objects[:-1])])
    return np.concatenate([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)], axis=1)


def box_overlaps(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """IoU [N, M] of boxes in bins, where equal boxes have IoU 1 even without an area."""
    equal = (first[:, None] == second[None]).all(axis=2)
    return np.where(equal, 1.0, pairwise_iou(first, second))


def choose_candidates(
    predictions: Sequence[CoordObject], truths: Sequence[CoordObject], top_k: int
) -> NDArray[np.bool_]:
    """Which pairs [P, G] are candidates: for each prediction the `top_k` ground truths of largest box IoU.

    A prediction whose box overlaps none takes the `top_k` nearest centres. Of equals the lower index goes first. Boxes
    are whole bins, so float64 orders them exactly: two IoU that differ, differ by 1e-13 at least.
    """
    chosen = np.zeros((len(predictions), len(truths)), dtype=np.bool_)
    if top_k >= len(truths):
        return ~chosen
    first, second = enclosing_boxes(predictions), enclosing_boxes(truths)
    rank = -pairwise_iou(first, second)
    alone = ~rank.any(axis=1)
    if alone.any():
        rank[alone] = np.square(box_centers(first[alone])[:, None] - box_centers(second)[None]).sum(axis=2)
    nearest = np.argsort(rank, axis=1, kind="stable")[:, :top_k]
    np.put_along_axis(chosen, nearest, True, axis=1)
    return chosen


def mask_overlaps(
    predictions: Sequence[CoordObject], truths: Sequence[CoordObject], resolution: int
) -> NDArray[np.float64]:
    """IoU [P, G] of the objects' masks on a canvas of `resolution` x `resolution` pixels.

    Bin k lies at k * (resolution - 1) / 999, a box is its four corners, and the pixels are those that pycocotools'
    `frPyObjects` sets. Where a mask is empty, which small boxes' are, the boxes around the two objects count: IoU 1 if
    they are equal, else their IoU in bins.
    """
    if all(obj.kind == "bbox_2d" for obj in (*predictions, *truths)):
        boxes = [pixel_boxes(enclosing_boxes(objects), resolution) for objects in (predictions, truths)]
        iou, solid = pairwise_iou(boxes[0], boxes[1]), [box_areas(some) > 0 for some in boxes]
    else:
        masks = [encode_masks(objects, resolution) for objects in (predictions, truths)]
        iou, solid = coco_mask.iou(*masks, [0] * len(truths)), [has_pixels(some, resolution) for some in masks]
    empty = ~np.logical_and.outer(*solid)
    if empty.any():
        iou = np.where(empty, box_overlaps(enclosing_boxes(predictions), enclosing_boxes(truths)), iou)
    return np.asarray(iou)


def encode_masks(objects: Sequence[CoordObject], resolution: int) -> list[dict[str, object]]:
    """Run-length masks of one object or more, made in one call; a box is the polygon of its corners."""
    rings = [[obj.bins[i] for i in _CORNERS] if obj.kind == "bbox_2d" else obj.bins for obj in objects]
    flat = scale_bins([*itertools.chain.from_iterable(rings)], resolution)
    ends = [0, *itertools.accumulate(map(len, rings))]
    polygons = [flat[start:end] for start, end in itertools.pairwise(ends)]
    masks: list[dict[str, object]] = coco_mask.frPyObjects(polygons, resolution, resolution)
    return masks


def has_pixels(masks: Sequence[dict[str, object]], resolution: int) -> NDArray[np.bool_]:
    """Which masks [N] set a pixel: those that are not written like the mask of a point.

    pycocotools would tell by `area`, which fails from 256 masks on (2.0.11 with numpy 2).
    """
    (point,) = coco_mask.frPyObjects([[0.0] * 6], resolution, resolution)
    return np.array([mask["counts"] != point["counts"] for mask in masks])


def pixel_boxes(boxes: Boxes, resolution: int) -> Boxes:
    """The pixels [N, 4] that `frPyObjects` sets for boxes in bins: columns x1 to x2 - 1, rows y1 to y2 - 1.

    A pixel is set when its middle lies in the half-open box, both in the rasterizer's fifths of a pixel. So a box is
    compared without drawing it, six times as fast, with the same pixels (a test compares every pair of sides).
    """
    fine = np.floor(_FINE * scale_bins(boxes, resolution) + 0.5)
    return np.asarray(np.ceil((fine - _MIDDLE) / _FINE))


def scale_bins(bins: ArrayLike, resolution: int) -> NDArray[np.float64]:
    """Where bins lie on a canvas of `resolution` pixels a side: bin 999 at its last pixel."""
    return np.asarray(np.asarray(bins) * (resolution - 1) / LAST_BIN)
