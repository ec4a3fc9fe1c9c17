"""COCO objects to record objects and regions to ignore: corners, clipping, scale, bins, and a reason for each drop.

Contract ids: DATA-009, DATA-010, DATA-044.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordexp.coords.codec import pixel_to_bin, render_coord_token
from coordexp.data.cooking_types import CookedObjects
from coordexp.data.regions import IgnoreRegion

if TYPE_CHECKING:
    from coordexp.data.coco import CocoAnnotation
    from coordexp.data.cooking_names import Names
    from coordexp.data.cooking_types import CookOptions


@dataclass(frozen=True, slots=True)
class Frame:
    """An image's size as annotated and as cooked, in pixels (width, height)."""

    annotated: tuple[int, int]
    cooked: tuple[int, int]

    def bins(self, points: list[float]) -> list[str]:
        """Flat x, y pixels of the annotated image as coord tokens of the cooked one; each axis has its own scale.

        A coordinate on the far edge (x = width) is the last pixel of its axis, hence bin 999.
        """
        tokens = []
        for index, value in enumerate(points):
            old, new = self.annotated[index % 2], self.cooked[index % 2]
            pixel = min(max(value * new / old, 0.0), new - 1.0)
            tokens.append(render_coord_token(pixel_to_bin(pixel, new)))
        return tokens

    def region(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Corners in pixels of the cooked image, clipped to it, of a box x, y, width, height in the annotated one."""
        x, y, width, height = box
        columns, rows = self.annotated
        across, down = self.cooked[0] / columns, self.cooked[1] / rows
        x1, x2 = (min(max(value, 0.0), columns) * across for value in (x, x + width))
        y1, y2 = (min(max(value, 0.0), rows) * down for value in (y, y + height))
        return x1, y1, x2, y2


def cook_objects(annotations: list[CocoAnnotation], frame: Frame, names: Names, options: CookOptions) -> CookedObjects:
    """Turn one image's annotations into record objects and regions to ignore."""
    cooked = CookedObjects()
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for annotation in annotations:
        reason = _drop_reason(annotation, frame, names)
        if reason is not None:
            cooked.dropped[reason] += 1
            continue
        desc = names.descs[annotation.category_id]
        ignored = annotation.ignored
        if ignored is not None:
            cooked.ignored[ignored] += 1
            cooked.regions.append(IgnoreRegion(desc, frame.region(annotation.bbox)))
            continue
        adjusted: Counter[str] = Counter()
        kind, points = _geometry(annotation, frame, options, adjusted)
        tokens = frame.bins(points)
        if (desc, tuple(tokens)) in seen:
            cooked.dropped["duplicate"] += 1
            continue
        seen.add((desc, tuple(tokens)))
        if annotation.category_id in names.normalized:
            adjusted["desc_normalized"] += 1
        if len(set(tokens[0::2])) == 1 or len(set(tokens[1::2])) == 1:
            adjusted["no_area_in_bins"] += 1
        cooked.adjusted.update(adjusted)
        cooked.objects.append({"desc": desc, kind: tokens})
    return cooked


def _drop_reason(annotation: CocoAnnotation, frame: Frame, names: Names) -> str | None:
    x, y, width, height = annotation.bbox
    if annotation.category_id not in names.descs:
        return "unmapped_category"
    if width <= 0 or height <= 0:
        return "zero_area"
    if x >= frame.annotated[0] or y >= frame.annotated[1] or x + width <= 0 or y + height <= 0:
        return "outside"
    return None


def _geometry(
    annotation: CocoAnnotation, frame: Frame, options: CookOptions, adjusted: Counter[str]
) -> tuple[str, list[float]]:
    """Kind and flat pixels of the annotated image before clipping; what clipping will move is counted."""
    columns, rows = frame.annotated
    if options.geometry == "poly":
        polygon = _single_polygon(annotation.segmentation)
        if polygon is not None:
            xs, ys = polygon[0::2], polygon[1::2]
            if min(xs) < 0 or min(ys) < 0 or max(xs) > columns or max(ys) > rows:
                adjusted["poly_clipped"] += 1
            return "poly", polygon
        adjusted["poly_as_box"] += 1
    x, y, width, height = annotation.bbox
    corners = [x, y, x + width, y + height]
    if x < 0 or y < 0 or corners[2] > columns or corners[3] > rows:
        adjusted["box_clipped"] += 1
    elif corners[2] == columns or corners[3] == rows:
        adjusted["edge_clipped"] += 1
    return "bbox_2d", corners


def _single_polygon(segmentation: Any) -> list[float] | None:
    """The polygon's flat points when the object is one polygon; None for several parts, RLE and malformed ones."""
    if not isinstance(segmentation, list) or len(segmentation) != 1 or not isinstance(segmentation[0], list):
        return None
    points = segmentation[0]
    if len(points) < 6 or len(points) % 2:
        return None
    if any(
        isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) for value in points
    ):
        return None
    return [float(value) for value in points]
