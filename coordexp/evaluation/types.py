"""What evaluation compares and what it reports. Contract ids: EVAL-*; the report's form is
`coordexp:evaluation-report`.

Boxes are `(x1, y1, x2, y2)` in pixels of the image the model saw, corners in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Box = tuple[float, float, float, float]
IOU_THRESHOLD = 0.5
"""Lowest IoU at which a prediction counts as the object it is compared with."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One object: its description, its box in pixels, and how sure the model is (1.0 for ground truth)."""

    desc: str
    box: Box
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class ImageTruth:
    """The annotated objects of one image; `split` groups images that are reported beside the whole."""

    sample_id: str
    width: int
    height: int
    objects: tuple[Detection, ...]
    split: str | None = None


@dataclass(frozen=True, slots=True)
class ImagePrediction:
    """What one answer yielded. `failure` is the reason why an unparsable answer yielded nothing (with its text in
    `failure_detail`), else None.

    `truncated` says that the answer ran into its token limit. `dropped` counts, by reason, objects that a salvaging
    parser left out of `detections`; a strict parse leaves out none.
    """

    sample_id: str
    detections: tuple[Detection, ...]
    failure: str | None = None
    failure_detail: str | None = None
    truncated: bool = False
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MatchCounts:
    """True positives, false positives and false negatives, and the ratios they give (None where 0/0)."""

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def precision(self) -> float | None:
        """TP / (TP + FP); None without predictions."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """TP / (TP + FN); None without ground truth."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN), 0.0 when one side is empty; None without ground truth and predictions."""
        both = 2 * self.true_positives
        return _ratio(both, both + self.false_positives + self.false_negatives)

    def __add__(self, other: MatchCounts) -> MatchCounts:
        return MatchCounts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )


@dataclass(frozen=True, slots=True)
class CocoMetrics:
    """COCO's twelve numbers for boxes under their usual short names, and AP and AP50 of each description.

    None stands for COCO's -1: no ground truth falls in that range.
    """

    summary: Mapping[str, float | None]
    per_class: Mapping[str, tuple[float | None, float | None]]


@dataclass(frozen=True, slots=True)
class DetectionReport:
    """The outcome over one set of images.

    `detection` matches box and description, `localization` the box alone. `parse_failures` counts unparsable answers
    and `dropped_objects` objects that a salvaging parser left out, both by reason; `unknown_desc` counts predictions
    whose description no ground truth of the set has (they are false positives, and outside COCO's categories).
    `splits` holds a report per split name.
    """

    images: int
    ground_truth_objects: int
    predicted_objects: int
    parsed: int
    truncated: int
    unknown_desc: int
    score_mode: str
    detection: MatchCounts
    localization: MatchCounts
    per_class: Mapping[str, MatchCounts]
    coco: CocoMetrics
    parse_failures: Mapping[str, int]
    dropped_objects: Mapping[str, int]
    splits: Mapping[str, DetectionReport] = field(default_factory=dict)

    @property
    def parse_rate(self) -> float | None:
        """Share of answers that parse strictly; None without images."""
        return _ratio(self.parsed, self.images)


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None
