"""Answers and records as boxes in pixels. Contract ids: EVAL-006, EVAL-007.

A rollout's token ids go through the one parse of an answer: its valid objects become detections, and what is dropped or
cut is counted and never repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from coordexp.coordjson import ParsedRollout
from coordexp.coords.codec import bin_to_pixel
from coordexp.data.regions import read_scope
from coordexp.encode.rollout_parse import RolloutParser
from coordexp.evaluation.types import Box, Detection, ImagePrediction, ImageTruth
from coordexp.rollout.types import RolloutOutput

if TYPE_CHECKING:
    from coordexp.coords.types import CoordObject
    from coordexp.data.types import Record
    from coordexp.encode.encoder import Encoder

ScoreMode = Literal["constant", "confidence"]
Scorer = Callable[[RolloutOutput, ParsedRollout], tuple[float, ...]]
"""Scores of the valid objects of a parsed answer, in the order written."""
SPLIT_KEY = "split"
"""Entry of a record's metadata that names its split."""


def build_truths(records: Iterable[Record], encoder: Encoder) -> tuple[ImageTruth, ...]:
    """What answers to `records` are compared with, and how long the annotated answers are in `encoder`'s tokens.

    Raises `EncodeError` for a description that no answer can hold.
    """
    # A model that answers rightly generates the end token too.
    return tuple(build_truth(record, encoder.answer_length(record) + 1) for record in records)


def build_truth(record: Record, answer_tokens: int | None = None) -> ImageTruth:
    """The record's objects in pixels; a polygon counts as its bounding box. What its metadata keeps from being scored
    goes with it.
    """
    split, scope = record.metadata.get(SPLIT_KEY), read_scope(record)
    return ImageTruth(
        sample_id=record.source,
        width=record.width,
        height=record.height,
        objects=tuple(Detection(obj.desc, pixel_box(obj, record.width, record.height)) for obj in record.objects),
        split=None if split is None else str(split),
        answer_tokens=answer_tokens,
        ignore=scope.ignore,
        verified_absent=scope.verified_absent,
    )


def build_answer_parser(encoder: Encoder) -> RolloutParser:
    """The parser of answers in `encoder`'s tokens. Polygons are taken, as ground truth may hold them."""
    return RolloutParser(encoder.tokenizer, encoder.coords, allow_poly=True)


def parse_prediction(
    output: RolloutOutput, width: int, height: int, parser: RolloutParser, scorer: Scorer | None = None
) -> ImagePrediction:
    """What `output` says about an image of `width` x `height` pixels, scored by `scorer` (1.0 each without one).

    `parser` is one of `build_answer_parser`; what it drops is in the prediction's `parse`.
    """
    parsed = parser.parse(output.response_token_ids)
    items = [found.item for found in parsed.objects]
    scores: Sequence[float] = [1.0] * len(items) if scorer is None else scorer(output, parsed)
    found = tuple(
        Detection(item.desc, pixel_box(item, width, height), score) for item, score in zip(items, scores, strict=True)
    )
    return ImagePrediction(
        output.sample_id, found, parsed, output.finish_reason == "length", len(output.response_token_ids)
    )


def in_truth_pixels(image: ImageTruth, answer: ImagePrediction) -> ImagePrediction:
    """`answer`, whose boxes are in pixels of the image that the model saw, in those of its truth."""
    if image.annotated is None:
        return answer
    return replace(answer, detections=_rescaled(answer.detections, image.shown, (image.width, image.height)))


def on_shown_image(image: ImageTruth, answer: ImagePrediction) -> tuple[ImageTruth, ImagePrediction]:
    """Truth and answer in pixels of the image that the model saw, as pictures need them."""
    if image.annotated is None:
        return image, answer
    own, shown = (image.width, image.height), image.shown
    moved = replace(
        image,
        width=shown[0],
        height=shown[1],
        objects=_rescaled(image.objects, own, shown),
        ignore=tuple(replace(region, box=rescale(region.box, own, shown)) for region in image.ignore),
        annotated=None,
    )
    return moved, replace(answer, detections=_rescaled(answer.detections, own, shown))


def rescale(box: Box, old: tuple[int, int], new: tuple[int, int]) -> Box:
    """A box of an image of size `old` on the same image of size `new`; each axis has its own scale."""
    across, down = new[0] / old[0], new[1] / old[1]
    x1, y1, x2, y2 = box
    return x1 * across, y1 * down, x2 * across, y2 * down


def _rescaled(found: Iterable[Detection], old: tuple[int, int], new: tuple[int, int]) -> tuple[Detection, ...]:
    return tuple(replace(detection, box=rescale(detection.box, old, new), bbox=None) for detection in found)


def pixel_box(obj: CoordObject, width: int, height: int) -> Box:
    """Box of an object in pixels of a `width` x `height` image: bin k lies at k/999 of the last pixel's coordinate.

    For a polygon it is the bounding box of its points.
    """
    xs = [bin_to_pixel(k, width) for k in obj.bins[0::2]]
    ys = [bin_to_pixel(k, height) for k in obj.bins[1::2]]
    return min(xs), min(ys), max(xs), max(ys)
