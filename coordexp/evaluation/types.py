"""What evaluation compares and what it reports. Contract ids: EVAL-*; the report's form is
`coordexp:evaluation-report`.

Boxes are `(x1, y1, x2, y2)` in pixels of the image the model saw, corners in order.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from coordexp.coordjson import NO_CUT, ParsedRollout, ParseTally
from coordexp.data.regions import IgnoreRegion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordexp.data.coco import Identifier

Box = tuple[float, float, float, float]
CocoEngine = Literal["pycocotools", "hotcoco"]
"""What computes COCO's numbers."""
TruthKind = Literal["records", "annotations"]
"""What answers are compared with: records in bins, or the annotation file that they were cooked from."""
ScorePolicy = Literal["constant", "confidence", "given"]
"""Where a prediction's score comes from: nowhere, its coord tokens, or the file that it was read from."""
IOU_THRESHOLD = 0.5
"""Lowest IoU at which a prediction counts as the object it is compared with."""
NO_ANSWER = ParsedRollout((), 0, NO_CUT, False, False, False, None)
"""The parse of predictions that come from no answer: nothing is wrong with it."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One object: its description in NFC, its box in pixels, and how sure the model is (1.0 for ground truth).

    `said` is what was written where `desc` is a category's name for it, None where it is what was written. `bbox` is
    the box as a results file has it: x, y, width, height.
    """

    desc: str
    box: Box
    score: float = 1.0
    said: str | None = None
    bbox: Box | None = None

    def __post_init__(self) -> None:
        # The one place: whatever compares or groups by description sees one name for one text.
        object.__setattr__(self, "desc", _nfc(self.desc))


@dataclass(frozen=True, slots=True)
class FileRow:
    """An object or region as an annotation file has it: its bbox (x, y, width, height), its area, and its place among
    all rows of the file.
    """

    bbox: Box
    area: float
    place: int


@dataclass(frozen=True, slots=True)
class FileImage:
    """The image of an annotation file that a truth stands for, in whose pixels its boxes are.

    `rows` are those of the truth's objects, then of its regions. `shown` is the size (width, height) of the cooked
    image that the model saw.
    """

    image_id: Identifier
    shown: tuple[int, int]
    rows: tuple[FileRow, ...]


@dataclass(frozen=True, slots=True)
class ImageTruth:
    """The annotated objects of one image; `split` groups images that are reported beside the whole.

    `answer_tokens` is the length of the annotated answer with its end token, None where nobody counted. In the regions
    of `ignore` answers count neither way. Where `verified_absent` is not None only categories are scored that the image
    has, ignores, or names there. `annotated` is there when the truth is an annotation file's.
    """

    sample_id: str
    width: int
    height: int
    objects: tuple[Detection, ...]
    split: str | None = None
    answer_tokens: int | None = None
    ignore: tuple[IgnoreRegion, ...] = ()
    verified_absent: frozenset[str] | None = None
    annotated: FileImage | None = None

    def __post_init__(self) -> None:
        named = (region if region.desc is None else replace(region, desc=_nfc(region.desc)) for region in self.ignore)
        object.__setattr__(self, "ignore", tuple(named))
        if self.verified_absent is not None:
            object.__setattr__(self, "verified_absent", frozenset(map(_nfc, self.verified_absent)))

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height of the image that the model saw."""
        return (self.width, self.height) if self.annotated is None else self.annotated.shown

    @property
    def kind(self) -> TruthKind:
        """Where its boxes come from."""
        return "records" if self.annotated is None else "annotations"


@dataclass(frozen=True, slots=True)
class ImagePrediction:
    """What one answer yielded: the valid objects of its `parse`, which also says what was dropped and cut.

    `token_limit` says that the answer ran into its token limit, which is not the same as being truncated.
    `generated_tokens` is its length with the end token, None where nobody counted. `unmapped` are descriptions in it
    that mean no category of an annotation file, None where nobody asked. Boxes `made_elsewhere` were never written as
    an answer: there is nothing to parse, and equal scores rank as given.
    """

    sample_id: str
    detections: tuple[Detection, ...]
    parse: ParsedRollout = NO_ANSWER
    token_limit: bool = False
    generated_tokens: int | None = None
    unmapped: frozenset[str] | None = None
    made_elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class MatchCounts:
    """True positives, false positives and false negatives, and the ratios they give (None where 0/0).

    `ignored` predictions lie in a region that is not scored and matched nothing: they are in no ratio.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    ignored: int = 0

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
            self.ignored + other.ignored,
        )


@dataclass(frozen=True, slots=True)
class CocoMetrics:
    """COCO's twelve numbers for boxes under their usual short names, and AP and AP50 of each description.

    None stands for COCO's -1: no ground truth falls in that range. COCO counts the `limit` best predictions of an image
    and category; `images_over_limit` have more, and `unlimited` holds the numbers over all of them.
    """

    summary: Mapping[str, float | None]
    per_class: Mapping[str, tuple[float | None, float | None]]
    unlimited: Mapping[str, float | None] = field(default_factory=dict)
    limit: int = 100
    images_over_limit: int = 0
    engine: CocoEngine = "pycocotools"


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a perfect answer in bins would score on this truth, with constant scores.

    A perfect answer says the objects of the records. `without_area` annotated objects have both edges of an axis in one
    bin; `unmatchable` ones have an IoU below 0.5 with their own rounding; `images_over_limit` images hold more objects
    of a category than COCO counts.
    """

    summary: Mapping[str, float | None]
    unlimited: Mapping[str, float | None]
    f1: float | None
    without_area: int
    unmatchable: int
    images_over_limit: int

    @property
    def reached(self) -> bool:
        """Whether nothing is out of an answer's reach."""
        known = (self.summary["mAP"], self.f1)
        return all(value is None or value > 1 - 1e-9 for value in known)


THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""COCO's IoUs, 0.50 to 0.95."""


@dataclass(frozen=True, slots=True)
class Measures:
    """What answers are worth without scores: matches at each of `THRESHOLDS`, and boxes that say little.

    `near_duplicates` nearly repeat an earlier box of their answer (same description, IoU 0.9 or more);
    `image_size_boxes` cover 95% or more of their image.
    """

    by_iou: tuple[MatchCounts, ...]
    near_duplicates: int
    image_size_boxes: int

    @property
    def predicted(self) -> int:
        """Scored predictions, those in regions included."""
        one = self.by_iou[0]
        return one.true_positives + one.false_positives + one.ignored

    @property
    def f1_strict(self) -> float | None:
        """F1 at IoU 0.95."""
        return self.by_iou[-1].f1

    @property
    def f1_mean(self) -> float | None:
        """Mean of F1 over the thresholds, F1@mIoU; None without ground truth and predictions."""
        values = [counts.f1 for counts in self.by_iou if counts.f1 is not None]
        return sum(values) / len(values) if values else None

    @property
    def near_duplicate_rate(self) -> float | None:
        """Share of the predictions that nearly repeat an earlier one."""
        return _ratio(self.near_duplicates, self.predicted)

    @property
    def image_size_rate(self) -> float | None:
        """Share of the predictions that are of the image's size."""
        return _ratio(self.image_size_boxes, self.predicted)


@dataclass(frozen=True, slots=True)
class AnswerLengths:
    """Mean tokens of the answers and of the annotated answers, end tokens included; None where unknown."""

    generated: float | None
    ground_truth: float | None

    @property
    def ratio(self) -> float | None:
        """How many times as long as the annotated answers the answers are."""
        if self.generated is None or self.ground_truth is None:
            return None
        return _ratio(self.generated, self.ground_truth)


@dataclass(frozen=True, slots=True)
class SampledRecall:
    """What sampled answers find, beside the greedy ones. Counted are annotated objects, matched in box and description.

    `found[k]` is of sample k alone and `found_together[k]` of samples 0..k: an object counts once, whichever finds it.
    `seen_not_said` are found by a sample and not by the greedy answer, `not_seen` by neither. `answers` are all sampled
    ones, of which `parsed` are strictly well-formed.
    """

    objects: int
    greedy: int
    found: tuple[int, ...]
    found_together: tuple[int, ...]
    seen_not_said: int
    not_seen: int
    answers: int
    parsed: int
    truncated: int
    lengths: AnswerLengths

    @property
    def greedy_recall(self) -> float | None:
        """Recall of the greedy answers; None without ground truth, as all recalls here."""
        return _ratio(self.greedy, self.objects)

    @property
    def recalls(self) -> tuple[float | None, ...]:
        """Recall of each sample."""
        return tuple(_ratio(found, self.objects) for found in self.found)

    @property
    def mean_recall(self) -> float | None:
        """Mean recall of the samples."""
        return _ratio(sum(self.found), len(self.found) * self.objects)

    @property
    def union_recalls(self) -> tuple[float | None, ...]:
        """Recall of the first sample, of the first two together, and so on; the last is recall at K."""
        return tuple(_ratio(found, self.objects) for found in self.found_together)

    @property
    def parse_rate(self) -> float | None:
        """Share of the sampled answers that are strictly well-formed."""
        return _ratio(self.parsed, self.answers)

    @property
    def truncated_rate(self) -> float | None:
        """Share of the sampled answers that are truncated."""
        return _ratio(self.truncated, self.answers)


@dataclass(frozen=True, slots=True)
class NameCounts:
    """How predictions found their category in an annotation file: `exact` by an equal name; by what was said, those
    with a name that is alike in writing, and those `unmapped`.
    """

    exact: int
    normalized: Mapping[str, int]
    unmapped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DetectionReport:
    """The outcome over one set of images.

    `measures` match box and description, `localization` the box alone, at IoU 0.5. `parses` counts what the answers'
    parse found, dropped and cut, by reason; `token_limit` answers that ran into their token limit; `unknown_desc`
    predictions whose description no annotation of the set has (false positives, and outside COCO's categories).
    `regions` are not scored; `left_out` predictions are of a category that nobody looked for in their image. `truth`
    says what was compared with, and `ceiling` what could be reached, where that was computed. `samples` is there when
    answers were sampled too, `names` when descriptions were looked up in an annotation file. `splits` holds a report
    per split name.
    """

    images: int
    ground_truth_objects: int
    predicted_objects: int
    parses: ParseTally
    token_limit: int
    unknown_desc: int
    score_mode: ScorePolicy
    measures: Measures
    localization: MatchCounts
    class_measures: Mapping[str, Measures]
    coco: CocoMetrics
    lengths: AnswerLengths
    regions: int
    left_out: int
    truth: TruthKind
    ceiling: Ceiling | None = None
    samples: SampledRecall | None = None
    names: NameCounts | None = None
    splits: Mapping[str, DetectionReport] = field(default_factory=dict)

    @property
    def detection(self) -> MatchCounts:
        """Matches of box and description at IoU 0.5."""
        return self.measures.by_iou[0]

    @property
    def per_class(self) -> Mapping[str, MatchCounts]:
        """The same of each description of the ground truth."""
        return {name: measures.by_iou[0] for name, measures in self.class_measures.items()}

    @property
    def parse_failure_rate(self) -> float | None:
        """Share of answers that are not strictly well-formed; None without answers."""
        return None if self.parse_rate is None else 1.0 - self.parse_rate

    @property
    def parse_rate(self) -> float | None:
        """Share of answers that are strictly well-formed; None without answers."""
        return _ratio(self.parses.strict, self.parses.answers)

    @property
    def truncated_rate(self) -> float | None:
        """Share of answers whose text ends before the outermost brace; None without answers."""
        return _ratio(self.parses.truncated, self.parses.answers)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None
