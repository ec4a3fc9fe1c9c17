"""COCO results as predictions of the images of an annotation file. Contract ids: EVAL-088, EVAL-089.

Enter: results in the file's order, and the file. Leave: what each evaluated image's results say, with what was counted
on the way. Ids that the file does not have are one `EvaluationError`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.data.coco_rules import shown
from coordexp.evaluation.report import EvaluationError
from coordexp.evaluation.types import Detection, ImagePrediction

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from coordexp.data.coco import Identifier
    from coordexp.data.coco_results import CocoResult
    from coordexp.evaluation.annotated import AnnotatedSet

_NAMED = 3


@dataclass(frozen=True, slots=True)
class ResultCounts:
    """Rows of a results file, and among them: exact repetitions of an earlier row, rows of images that are not
    evaluated (by --limit, or without a record), and rows of categories that the map leaves out.

    Repetitions count as any other row; the last two count nowhere.
    """

    rows: int
    repeated: int
    of_other_images: int
    of_other_categories: int


def predictions_of(
    results: Sequence[CocoResult], annotations: AnnotatedSet, source: str
) -> tuple[tuple[ImagePrediction, ...], ResultCounts]:
    """A prediction for each truth of `annotations`, in their order; `source` names the results in errors."""
    _check_ids([row.image_id for row in results], annotations.images, "image_id", source)
    categories = annotations.descs.keys() | annotations.unused
    _check_ids([row.category_id for row in results], categories, "category_id", source)
    found: dict[Identifier, list[Detection]] = {
        image.annotated.image_id: [] for image in annotations.truths if image.annotated is not None
    }
    other_images = other_categories = 0
    for row in results:
        if row.image_id not in found:
            other_images += 1
        elif row.category_id not in annotations.descs:
            other_categories += 1
        else:
            x, y, width, height = row.bbox
            box = (x, y, x + width, y + height)
            found[row.image_id].append(Detection(annotations.descs[row.category_id], box, row.score, bbox=row.bbox))
    same = Counter((row.image_id, row.category_id, row.bbox, row.score) for row in results)
    predictions = tuple(
        ImagePrediction(image.sample_id, tuple(own), made_elsewhere=True)
        for image, own in zip(annotations.truths, found.values(), strict=True)
    )
    return predictions, ResultCounts(len(results), len(results) - len(same), other_images, other_categories)


def _check_ids(ids: Sequence[Identifier], known: Collection[Identifier], key: str, source: str) -> None:
    """Raise for ids that the file does not have; the first few are named with their places."""
    strange: dict[Identifier, int] = {}
    rows = 0
    for index, value in enumerate(ids):
        if value not in known:
            rows += 1
            strange.setdefault(value, index)
    if not strange:
        return
    named = ", ".join(f"{shown(value)} in [{index}]" for value, index in list(strange.items())[:_NAMED])
    more = f" and {len(strange) - _NAMED} more" if len(strange) > _NAMED else ""
    first = next(iter(strange))
    other = str(first) in {str(value) for value in known}
    kinds = ("texts", "numbers") if isinstance(first, str) else ("numbers", "texts")
    hint = f": {key}s are {kinds[0]} here and {kinds[1]} there, which never match; write both one way" if other else ""
    raise EvaluationError(
        f"{source}: {rows} of {len(ids)} results have {key}s that the annotation file lacks: {named}{more}"
        f"{hint or '. Give the file that the results were made for'}"
    )
