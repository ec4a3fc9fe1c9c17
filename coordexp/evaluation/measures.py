"""What answers are worth without scores: matches at ten IoUs, repeated boxes, boxes as large as the image. EVAL-086.

In: the truth and the scored predictions of each image. Out: `Measures` of the whole and of each description.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from coordexp.evaluation.matching import ignored_predictions, match_pairs
from coordexp.evaluation.types import THRESHOLDS, MatchCounts, Measures
from coordexp.geometry.boxes import pairwise_iou
from coordexp.matching.duplicates import near_copies

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from coordexp.evaluation.types import Box, Detection, ImageTruth

IMAGE_SIZE_SHARE = 0.95
"""Share of the image's area from which a box counts as one of the image's size."""
Compared = tuple["ImageTruth", "Sequence[Detection]"]
_NOTHING = MatchCounts(0, 0, 0)


class MeasureTally:
    """Adds images up, each matched once at every threshold; descriptions are apart, as a match has the same one."""

    def __init__(self, images: Sequence[Compared]) -> None:
        self._counts: list[defaultdict[str, Counter[str]]] = [defaultdict(Counter) for _ in THRESHOLDS]
        self._again: Counter[str] = Counter()
        self._whole: Counter[str] = Counter()
        for image, found in images:
            self._add(image, found)

    def measures_of(self, names: Collection[str]) -> Mapping[str, Measures]:
        """Measures of each of these descriptions."""
        return {
            name: Measures(
                tuple(_match_counts(counts.get(name, Counter())) for counts in self._counts),
                self._again[name],
                self._whole[name],
            )
            for name in names
        }

    def total(self) -> Measures:
        """Measures over all descriptions."""
        return Measures(
            tuple(sum((_match_counts(one) for one in counts.values()), _NOTHING) for counts in self._counts),
            self._again.total(),
            self._whole.total(),
        )

    def _add(self, image: ImageTruth, found: Sequence[Detection]) -> None:
        names, wanted = [one.desc for one in found], [one.desc for one in image.objects]
        iou = pairwise_iou([one.box for one in found], [one.box for one in image.objects])
        if iou.size:
            iou = np.where(np.array(names, dtype=object)[:, None] == np.array(wanted, dtype=object), iou, -1.0)
        for counts, threshold in zip(self._counts, THRESHOLDS, strict=True):
            pairs = match_pairs(iou, threshold)
            taken, seen = {row for row, _ in pairs}, {column for _, column in pairs}
            ignored = ignored_predictions(found, image.ignore, taken)
            for number, name in enumerate(names):
                counts[name][_fate(number, taken, ignored)] += 1
            for number, name in enumerate(wanted):
                counts[name]["missed"] += number not in seen
        self._again.update(repeated(found))
        area = IMAGE_SIZE_SHARE * image.width * image.height
        self._whole.update(one.desc for one in found if _area(one) >= area)


def repeated(found: Sequence[Detection]) -> Counter[str]:
    """How many boxes of each description nearly repeat an earlier one of the same."""
    groups: defaultdict[str, list[Box]] = defaultdict(list)
    for one in found:
        groups[one.desc].append(one.box)
    copies = {name: near_copies(np.array(boxes)).any(axis=1).sum() for name, boxes in groups.items() if len(boxes) > 1}
    return Counter({name: int(count) for name, count in copies.items()})


def _fate(number: int, taken: Collection[int], ignored: Collection[int]) -> str:
    if number in taken:
        return "hit"
    return "ignored" if number in ignored else "wrong"


def _match_counts(counts: Counter[str]) -> MatchCounts:
    return MatchCounts(counts["hit"], counts["wrong"], counts["missed"], counts["ignored"])


def _area(found: Detection) -> float:
    x1, y1, x2, y2 = found.box
    return (x2 - x1) * (y2 - y1)
