"""Boxes, polygons, IoU, clamp, norm1000 ↔ pixels, cooked sizes: the project's only ones. numpy, no torch."""

from __future__ import annotations

from coordexp.geometry.boxes import as_boxes, box_areas, box_centers, clamp_boxes, pairwise_iou
from coordexp.geometry.norm1000 import bins_to_pixels, pixels_to_bins
from coordexp.geometry.polygons import polygon_area, polygon_box, polygon_points
from coordexp.geometry.resize import cooked_size, fits_processor

__all__ = [
    "as_boxes",
    "bins_to_pixels",
    "box_areas",
    "box_centers",
    "clamp_boxes",
    "cooked_size",
    "fits_processor",
    "pairwise_iou",
    "pixels_to_bins",
    "polygon_area",
    "polygon_box",
    "polygon_points",
]
