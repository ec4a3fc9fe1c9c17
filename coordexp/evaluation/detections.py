"""Answers and records as boxes in pixels. Contract ids: EVAL-006, EVAL-007.

A rollout's text enters a strict parse; what does not parse yields no detection and its reason, and is never repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from coordexp.coordjson import CoordJSONError, parse_answer
from coordexp.coords.codec import bin_to_pixel
from coordexp.evaluation.types import Box, Detection, ImagePrediction, ImageTruth
from coordexp.rollout.types import RolloutOutput

if TYPE_CHECKING:
    from coordexp.coords.types import CoordObject
    from coordexp.data.types import Record

ScoreMode = Literal["constant", "confidence"]
Scorer = Callable[[RolloutOutput], tuple[float, ...]]
"""Scores of the objects of an answer that parses, in the order written."""
SPLIT_KEY = "split"
"""Entry of a record's metadata that names its split."""


def build_truth(record: Record) -> ImageTruth:
    """The record's objects in pixels; a polygon counts as its bounding box."""
    split = record.metadata.get(SPLIT_KEY)
    return ImageTruth(
        sample_id=record.source,
        width=record.width,
        height=record.height,
        objects=tuple(Detection(obj.desc, pixel_box(obj, record.width, record.height)) for obj in record.objects),
        split=None if split is None else str(split),
    )


def parse_prediction(output: RolloutOutput, width: int, height: int, scorer: Scorer | None = None) -> ImagePrediction:
    """What `output` says about an image of `width` x `height` pixels, scored by `scorer` (1.0 each without one).

    An unparsable answer is a prediction without detections whose `failure` is the parser's reason.
    """
    truncated = output.finish_reason == "length"
    try:
        objects = parse_answer(output.text)
    except CoordJSONError as error:
        return ImagePrediction(output.sample_id, (), error.fault, str(error), truncated)
    scores: Sequence[float] = [1.0] * len(objects) if scorer is None else scorer(output)
    found = tuple(
        Detection(obj.desc, pixel_box(obj, width, height), score) for obj, score in zip(objects, scores, strict=True)
    )
    return ImagePrediction(output.sample_id, found, truncated=truncated)


def pixel_box(obj: CoordObject, width: int, height: int) -> Box:
    """Box of an object in pixels of a `width` x `height` image: bin k lies at k/999 of the last pixel's coordinate.

    For a polygon it is the bounding box of its points.
    """
    xs = [bin_to_pixel(k, width) for k in obj.bins[0::2]]
    ys = [bin_to_pixel(k, height) for k in obj.bins[1::2]]
    return min(xs), min(ys), max(xs), max(ys)
