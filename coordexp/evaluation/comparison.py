"""Two evaluations of the same images side by side: what each finds, and how sure the difference is. EVAL-060, EVAL-061.

In: the truth and two answers for each image. Out: a `Comparison`; its document is part of `coordexp:run-comparison`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordexp.evaluation.bootstrap import Interval, bootstrap_difference, match_detections
from coordexp.evaluation.coco import evaluate_fast
from coordexp.evaluation.matching import match_image, scored_predictions
from coordexp.evaluation.report import evaluate_detections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.evaluation.bootstrap import Resampling
    from coordexp.evaluation.types import Detection, DetectionReport, ImagePrediction, ImageTruth


@dataclass(frozen=True, slots=True)
class ClassDifference:
    """One description: its objects, AP in both (None without objects), and the objects that only one of them finds."""

    desc: str
    objects: int
    first: float | None
    second: float | None
    only_first: int
    only_second: int

    @property
    def difference(self) -> float | None:
        """AP of the second minus AP of the first."""
        return None if self.first is None or self.second is None else self.second - self.first


@dataclass(frozen=True, slots=True)
class FoundOnce:
    """An object that one evaluation finds (IoU 0.5, same description) and the other does not; `image` is its place."""

    image: int
    truth: Detection
    by_second: bool


@dataclass(frozen=True, eq=False)
class Comparison:
    """Both reports over the images that both answered, the objects found once, and the interval of the difference."""

    first: DetectionReport
    second: DetectionReport
    classes: tuple[ClassDifference, ...]
    found_once: tuple[FoundOnce, ...]
    interval: Interval


def compare_answers(
    truth: Sequence[ImageTruth],
    first: Sequence[ImagePrediction],
    second: Sequence[ImagePrediction],
    resampling: Resampling,
) -> Comparison:
    """Compare two answers to each image of `truth`; all three follow each other."""
    reports = [evaluate_detections(truth, answers, coco=evaluate_fast) for answers in (first, second)]
    found = tuple(_found_once(truth, first, second))
    matches = [match_detections(truth, answers) for answers in (first, second)]
    interval = bootstrap_difference(matches[0], matches[1], len(truth), resampling)
    return Comparison(reports[0], reports[1], _classes(truth, reports, found), found, interval)


def _found_once(
    truth: Sequence[ImageTruth], first: Sequence[ImagePrediction], second: Sequence[ImagePrediction]
) -> list[FoundOnce]:
    found = []
    for number, (image, one, other) in enumerate(zip(truth, first, second, strict=True)):
        left, right = _found(image, one), _found(image, other)
        found += [FoundOnce(number, image.objects[place], place in right) for place in sorted(left ^ right)]
    return found


def _found(image: ImageTruth, answer: ImagePrediction) -> set[int]:
    return {match.truth for match in match_image(image.objects, scored_predictions(image, answer.detections))}


def _classes(
    truth: Sequence[ImageTruth], reports: Sequence[DetectionReport], found: Sequence[FoundOnce]
) -> tuple[ClassDifference, ...]:
    objects = Counter(obj.desc for image in truth for obj in image.objects)
    once = Counter((one.truth.desc, one.by_second) for one in found)
    first, second = (report.coco.per_class for report in reports)
    rows = [
        ClassDifference(name, objects[name], first[name][0], second[name][0], once[name, False], once[name, True])
        for name in objects
    ]
    return tuple(sorted(rows, key=lambda row: (-abs(row.difference or 0.0), row.desc)))


def render_comparison(comparison: Comparison) -> dict[str, Any]:
    """The numbers as in comparison.json, without the runs' own differences."""
    interval = comparison.interval
    return {
        "images": comparison.first.images,
        "numbers": {name: list(pair) for name, pair in _numbers(comparison).items()},
        "mAP_difference": {
            "value": _known(interval.difference),
            "low": _known(interval.low),
            "high": _known(interval.high),
            "share_above": _known(interval.share_above),
            "resamples": interval.resamples,
        },
        "per_class": [
            {
                "desc": row.desc,
                "objects": row.objects,
                "first": row.first,
                "second": row.second,
                "only_first": row.only_first,
                "only_second": row.only_second,
            }
            for row in comparison.classes
        ],
        "only_first": sum(not found.by_second for found in comparison.found_once),
        "only_second": sum(found.by_second for found in comparison.found_once),
    }


def _numbers(comparison: Comparison) -> dict[str, tuple[float | None, float | None]]:
    first, second = comparison.first, comparison.second
    return {
        **{name: (first.coco.summary[name], second.coco.summary[name]) for name in first.coco.summary},
        "precision": (first.detection.precision, second.detection.precision),
        "recall": (first.detection.recall, second.detection.recall),
        "F1": (first.detection.f1, second.detection.f1),
        "predicted_objects": (first.predicted_objects, second.predicted_objects),
    }


def _known(value: float) -> float | None:
    """None for a number that is not defined: no class has an object."""
    return None if math.isnan(value) else value
