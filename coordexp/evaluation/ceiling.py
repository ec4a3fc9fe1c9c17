"""What can be reached: a perfect answer in 1000 bins, scored on the same truth. Contract ids: EVAL-044.

Records and what their answers are compared with enter; the numbers of the answer that training teaches leave, computed
by the functions that score every other answer, with the objects that no answer can match.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coordexp.coords.codec import bin_to_pixel, pixel_to_bin
from coordexp.evaluation.coco import evaluate_fast
from coordexp.evaluation.collecting import without_collecting
from coordexp.evaluation.detections import build_truth, in_truth_pixels, rescale
from coordexp.evaluation.matching import count_matches, scored_predictions
from coordexp.evaluation.types import IOU_THRESHOLD, Ceiling, ImagePrediction, MatchCounts
from coordexp.geometry.boxes import pairwise_iou

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from coordexp.data.types import Record
    from coordexp.evaluation.types import Box, DetectionReport, ImageTruth

SUMMARY_NAMES = ("mAP", "mAP50", "mAP75")


@without_collecting()
def add_ceiling(report: DetectionReport, truth: Sequence[ImageTruth], records: Sequence[Record]) -> DetectionReport:
    """`report`, on the images of `truth`, with the ceiling of the whole and of each split; `records[i]` is what the
    model was taught for `truth[i]`.
    """
    answers = {image.sample_id: perfect_answer(record, image) for record, image in zip(records, truth, strict=True)}
    reached = [_reach(image, answers[image.sample_id]) for image in truth]
    splits = {
        name: dataclasses.replace(split, ceiling=_ceiling([one for one in reached if one.image.split == name], answers))
        for name, split in report.splits.items()
    }
    return dataclasses.replace(report, ceiling=_ceiling(reached, answers), splits=splits)


def perfect_answer(record: Record, image: ImageTruth) -> ImagePrediction:
    """The answer that says the record's objects, in pixels of `image`, all with one score."""
    return in_truth_pixels(image, ImagePrediction(image.sample_id, build_truth(record).objects))


@dataclass(frozen=True, slots=True)
class _Reached:
    """What the perfect answer gets of one image."""

    image: ImageTruth
    counts: MatchCounts
    without_area: int
    unmatchable: int


def _reach(image: ImageTruth, answer: ImagePrediction) -> _Reached:
    own = [obj.box for obj in image.objects]
    rounded = [_rounded(box, image) for box in own]
    return _Reached(
        image,
        count_matches(image.objects, scored_predictions(image, answer.detections), regions=image.ignore),
        sum(box[0] == box[2] or box[1] == box[3] for box in rounded),
        int((_own_iou(own, rounded) < IOU_THRESHOLD).sum()),
    )


def _ceiling(reached: Sequence[_Reached], answers: Mapping[str, ImagePrediction]) -> Ceiling:
    truth = [one.image for one in reached]
    coco = evaluate_fast(truth, answers)
    return Ceiling(
        summary={name: coco.summary[name] for name in SUMMARY_NAMES},
        unlimited={name: coco.unlimited[name] for name in SUMMARY_NAMES},
        f1=sum((one.counts for one in reached), MatchCounts(0, 0, 0)).f1,
        without_area=sum(one.without_area for one in reached),
        unmatchable=sum(one.unmatchable for one in reached),
        images_over_limit=sum(_most(image) > coco.limit for image in truth),
    )


def _own_iou(boxes: Sequence[Box], others: Sequence[Box]) -> NDArray[np.float64]:
    """IoU of each box with the other of its place."""
    return np.diagonal(pairwise_iou(boxes, others))


def _most(image: ImageTruth) -> int:
    return max(Counter(obj.desc for obj in image.objects).values(), default=0)


def _rounded(box: Box, image: ImageTruth) -> Box:
    """A box of the truth as bins of the shown image hold it, back in pixels of the truth."""
    own, shown = (image.width, image.height), image.shown
    x1, y1, x2, y2 = (
        bin_to_pixel(pixel_to_bin(value, extent), extent)
        for value, extent in zip(rescale(box, own, shown), shown * 2, strict=True)
    )
    return rescale((x1, y1, x2, y2), shown, own)
