"""What answers are worth without scores: matches at ten IoUs, repeated boxes, boxes as large as the image. EVAL-086.

In: the truth and the scored predictions of each image. Out: `Measures` of the whole and of each description.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coordexp.evaluation.matching import ignored_predictions, match_pairs
from coordexp.evaluation.types import THRESHOLDS, MatchCounts, Measures
from coordexp.geometry.boxes import pairwise_iou
from coordexp.matching.duplicates import near_copies

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from coordexp.evaluation.types import Box, Detection, ImageTruth

IMAGE_SIZE_SHARE = 0.95
"""Share of the image's area from which a box counts as one of the image's size."""


@dataclass(frozen=True, slots=True)
class ImageMeasures:
    """One image: the descriptions of its predictions and objects; of the predictions that are matched, and that regions
    stand for, at each threshold; of those that nearly repeat one, and of those of its size.
    """

    said: Sequence[str]
    there: Sequence[str]
    hits: Sequence[Sequence[str]]
    ignored: Sequence[Sequence[str]]
    again: Counter[str]
    whole: Sequence[str]


def measure_image(image: ImageTruth, found: Sequence[Detection]) -> ImageMeasures:
    """Match the scored predictions of an image at every threshold."""
    names, wanted = [one.desc for one in found], [one.desc for one in image.objects]
    iou = pairwise_iou([one.box for one in found], [one.box for one in image.objects])
    if iou.size:
        iou = np.where(np.array(names, dtype=object)[:, None] == np.array(wanted, dtype=object), iou, -1.0)
    matched = list(matched_rows(iou))
    apart = [ignored_predictions(found, image.ignore, set(rows)) for rows in matched] if image.ignore else []
    area = IMAGE_SIZE_SHARE * image.width * image.height
    return ImageMeasures(
        names,
        wanted,
        [[names[row] for row in rows] for rows in matched],
        [[names[row] for row in rows] for rows in apart],
        repeated(found),
        [one.desc for one in found if _area(one) >= area],
    )


class MeasureTally:
    """Adds images up; descriptions are apart, as a match has the same one."""

    def __init__(self, images: Iterable[ImageMeasures]) -> None:
        self._hits: list[Counter[str]] = [Counter() for _ in THRESHOLDS]
        self._ignored: list[Counter[str]] = [Counter() for _ in THRESHOLDS]
        self._said: Counter[str] = Counter()
        self._there: Counter[str] = Counter()
        self._again: Counter[str] = Counter()
        self._whole: Counter[str] = Counter()
        for image in images:
            self._said.update(image.said)
            self._there.update(image.there)
            for number, names in enumerate(image.hits):
                self._hits[number].update(names)
            for number, names in enumerate(image.ignored):
                self._ignored[number].update(names)
            self._again.update(image.again)
            self._whole.update(image.whole)

    def measures_of(self, names: Collection[str]) -> Mapping[str, Measures]:
        """Measures of each of these descriptions."""
        return {
            name: Measures(
                tuple(
                    _match_counts(hits[name], ignored[name], self._said[name], self._there[name])
                    for hits, ignored in zip(self._hits, self._ignored, strict=True)
                ),
                self._again[name],
                self._whole[name],
            )
            for name in names
        }

    def total(self) -> Measures:
        """Measures over all descriptions."""
        said, there = self._said.total(), self._there.total()
        return Measures(
            tuple(
                _match_counts(hits.total(), ignored.total(), said, there)
                for hits, ignored in zip(self._hits, self._ignored, strict=True)
            ),
            self._again.total(),
            self._whole.total(),
        )


def matched_rows(iou: NDArray[np.float64]) -> Iterator[list[int]]:
    """The predictions that are matched at each of the thresholds, which rise; `iou` is [P, T]."""
    pairs: list[tuple[int, int]] = []
    free = False
    for threshold in THRESHOLDS:
        if free:
            # Nobody had a choice below, so nobody has one here: what is still near enough stays matched.
            pairs = [pair for pair in pairs if iou[pair] >= threshold]
        else:
            pairs = list(match_pairs(iou, threshold))
            free = not choices(iou >= threshold)
        yield [row for row, _ in pairs]


def choices(feasible: NDArray[np.bool_]) -> bool:
    """Whether any prediction or object has more than one partner."""
    return bool(feasible.any() and (feasible.sum(axis=0).max() > 1 or feasible.sum(axis=1).max() > 1))


def repeated(found: Sequence[Detection]) -> Counter[str]:
    """How many boxes of each description nearly repeat an earlier one of the same."""
    groups: defaultdict[str, list[Box]] = defaultdict(list)
    for one in found:
        groups[one.desc].append(one.box)
    copies = {name: near_copies(np.array(boxes)).any(axis=1).sum() for name, boxes in groups.items() if len(boxes) > 1}
    return Counter({name: int(count) for name, count in copies.items()})


def _match_counts(hits: int, ignored: int, said: int, there: int) -> MatchCounts:
    return MatchCounts(hits, said - hits - ignored, there - hits, ignored)


def _area(found: Detection) -> float:
    x1, y1, x2, y2 = found.box
    return (x2 - x1) * (y2 - y1)
