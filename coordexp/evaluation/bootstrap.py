"""How sure a difference in mAP is: both evaluations are scored again on images drawn anew. Contract ids: EVAL-060.

In: the matches that COCO's evaluation made, per category and image, of two evaluations of the same images. Out: the
difference of the means and its interval (percentile bootstrap, Efron 1979; images are drawn in pairs).
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

from coordexp.evaluation.coco import build_coco_sets, index_dataset
from coordexp.evaluation.report import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordexp.evaluation.types import ImagePrediction, ImageTruth

CONFIDENCE = 0.95
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class CategoryMatches:
    """The detections of one category over all images, best score first, as COCO matched them at each of T thresholds.

    `image` [N] is the number of the image each of N detections is in; `hit` and `counted` [T, N] say whether it matched
    an object and whether it counts at all; `objects` [I] is the number of objects that count in each of I images.
    `starts` and `lengths` are the runs of detections of one image with one score.
    """

    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    objects: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Resampling:
    """How often the images are drawn anew, and from which seed. Raises `EvaluationError` for fewer than 2 draws."""

    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 2 or self.seed < 0:
            raise EvaluationError(
                f"resamples is {self.resamples} and the seed {self.seed}; an interval takes at least 2 resamples and a "
                "seed of 0 or more"
            )


@dataclass(frozen=True, slots=True)
class Interval:
    """`difference` is second minus first on all images; `low` and `high` bound it with probability `CONFIDENCE`.

    `share_above` is the share of resamples in which the second is ahead.
    """

    difference: float
    low: float
    high: float
    share_above: float
    resamples: int


def match_detections(truth: Sequence[ImageTruth], answers: Sequence[ImagePrediction]) -> list[CategoryMatches]:
    """What COCO's evaluation matches in each category of `truth`: all areas, its 100 best of an image and category."""
    sets = build_coco_sets(truth, {answer.sample_id: answer for answer in answers})
    if not sets.names:
        return []
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(index_dataset(sets.truth), index_dataset(sets.found), "bbox")
        evaluator.params.areaRng, evaluator.params.areaRngLbl = evaluator.params.areaRng[:1], ["all"]
        evaluator.evaluate()
    images, thresholds = len(truth), len(evaluator.params.iouThrs)
    return [
        _category(evaluator.evalImgs[at : at + images], thresholds) for at in range(0, images * len(sets.names), images)
    ]


def _category(rows: Sequence[Mapping[str, Any] | None], thresholds: int) -> CategoryMatches:
    scores: list[NDArray[np.float64]] = [np.zeros(0)]
    image: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    hit: list[NDArray[np.bool_]] = [np.zeros((thresholds, 0), dtype=bool)]
    counted: list[NDArray[np.bool_]] = [np.zeros((thresholds, 0), dtype=bool)]
    objects = np.zeros(len(rows), dtype=np.int64)
    for number, row in enumerate(rows):
        if row is None:
            continue
        scores.append(np.asarray(row["dtScores"], dtype=np.float64))
        image.append(np.full(len(row["dtScores"]), number, dtype=np.int64))
        hit.append(np.asarray(row["dtMatches"]).reshape(thresholds, -1) > 0)
        counted.append(~np.asarray(row["dtIgnore"]).reshape(thresholds, -1).astype(bool))
        objects[number] = int(np.count_nonzero(np.asarray(row["gtIgnore"]) == 0))
    # COCO's own order: stable, best first, images in order where scores are equal.
    values, images = np.concatenate(scores), np.concatenate(image)
    order = np.argsort(-values, kind="mergesort")
    values, images = values[order], images[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (values[1:] != values[:-1]) | (images[1:] != images[:-1])
    starts = np.flatnonzero(new)
    lengths = np.diff(np.append(starts, len(order)))
    return CategoryMatches(
        images,
        np.concatenate(hit, axis=1)[:, order],
        np.concatenate(counted, axis=1)[:, order],
        objects,
        starts,
        lengths,
    )


def average_precision(matches: CategoryMatches, times: NDArray[np.int64]) -> float:
    """AP over the thresholds when image i is there `times[i]` times; NaN when no object is left.

    Copies of an image follow each other as whole images, as they do in COCO's stable order of equal scores.
    """
    total = int(times @ matches.objects)
    if not total:
        return float("nan")
    places = _copied(matches, times)
    if not len(places):
        return 0.0
    hit, counted = matches.hit[:, places], matches.counted[:, places]
    right = np.cumsum(hit & counted, axis=1, dtype=np.float64)
    wrong = np.cumsum(~hit & counted, axis=1, dtype=np.float64)
    precision = right / np.maximum(right + wrong, np.spacing(1.0))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = right / total
    sums = 0.0
    for row in range(len(hit)):
        found = np.searchsorted(recall[row], _RECALLS, side="left")
        sums += float(envelope[row, found[found < len(places)]].sum())
    return sums / (len(hit) * len(_RECALLS))


def _copied(matches: CategoryMatches, times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the detections, the run of each image at each score repeated as often as the image is there."""
    counts = times[matches.image[matches.starts]]
    lengths = np.repeat(matches.lengths, counts)
    firsts = np.repeat(matches.starts, counts)
    ends = np.cumsum(lengths)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    return np.repeat(firsts, lengths) + within


def mean_average_precision(categories: Sequence[CategoryMatches], times: NDArray[np.int64]) -> float:
    """mAP of one resample: the mean over the categories that have objects in it; NaN where none has."""
    known = [value for value in (average_precision(found, times) for found in categories) if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def bootstrap_difference(
    first: Sequence[CategoryMatches],
    second: Sequence[CategoryMatches],
    images: int,
    resampling: Resampling,
) -> Interval:
    """The interval of mAP(second) - mAP(first) over `images` images that both answered. One seed, the same digits."""
    rng = np.random.default_rng(resampling.seed)

    def gap(times: NDArray[np.int64]) -> float:
        return mean_average_precision(second, times) - mean_average_precision(first, times)

    drawn = np.array([gap(rng.multinomial(images, np.full(images, 1.0 / images))) for _ in range(resampling.resamples)])
    found = drawn[~np.isnan(drawn)]
    difference = gap(np.ones(images, dtype=np.int64))
    if not len(found):
        return Interval(difference, float("nan"), float("nan"), float("nan"), 0)
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(found, (tail, 1.0 - tail))
    return Interval(difference, float(low), float(high), float(np.mean(found > 0)), len(found))
