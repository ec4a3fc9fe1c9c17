"""Reads back what `evaluate --out` wrote: report.json and predictions.jsonl. Contract ids: ART-082.

In: the folder. Out: the report, and for each image its truth, its answer and its file, in the order written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from coordexp.artifacts.evaluation_files import PREDICTIONS_NAME, REPORT_NAME
from coordexp.data.regions import IgnoreRegion
from coordexp.evaluation.report import EvaluationError
from coordexp.evaluation.types import Box, Detection, ImagePrediction, ImageTruth
from coordexp.spec import ContractFileError, ContractViolation, check, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, eq=False)
class StoredEvaluation:
    """An evaluation of an earlier day; `truth`, `predictions` and `images` (files) follow each other."""

    folder: Path
    report: Mapping[str, Any]
    truth: tuple[ImageTruth, ...]
    predictions: tuple[ImagePrediction, ...]
    images: tuple[Path, ...]

    def chosen(self, places: Sequence[int]) -> StoredEvaluation:
        """The same, of the images at these places alone, in their order."""
        truth, predictions = [self.truth[at] for at in places], [self.predictions[at] for at in places]
        images = tuple(self.images[at] for at in places)
        return replace(self, truth=tuple(truth), predictions=tuple(predictions), images=images)


def read_evaluation(folder: Path) -> StoredEvaluation:
    """The evaluation in `folder`. Raises `EvaluationError` for files that are not there or not of this form."""
    try:
        report = check("evaluation-report", read_json(folder / REPORT_NAME))
    except (ContractFileError, ContractViolation) as error:
        raise EvaluationError(f"{folder / REPORT_NAME}: no report of an evaluation: {error}") from error
    lines = _read_lines(folder / PREDICTIONS_NAME)
    return StoredEvaluation(
        folder,
        report,
        tuple(_truth(line) for line in lines),
        tuple(ImagePrediction(line["sample_id"], _detections(line["predictions"])) for line in lines),
        tuple(Path(line["image"]) for line in lines),
    )


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        content = path.read_bytes().splitlines()
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be read ({error.strerror}); name a folder that evaluate wrote"
        ) from error
    lines = []
    for number, line in enumerate(content, 1):
        try:
            lines.append(check("evaluation-prediction", msgspec.json.decode(line)))
        except (msgspec.DecodeError, ContractViolation) as error:
            raise EvaluationError(f"{path}:{number}: no line of an evaluation: {error}") from error
    return lines


def _truth(line: Mapping[str, Any]) -> ImageTruth:
    regions = tuple(IgnoreRegion(region["desc"], _box(region["box"])) for region in line.get("ignore", ()))
    return ImageTruth(
        line["sample_id"], line["width"], line["height"], _detections(line["ground_truth"]), ignore=regions
    )


def _detections(found: Sequence[Mapping[str, Any]]) -> tuple[Detection, ...]:
    return tuple(Detection(one["desc"], _box(one["box"]), one["score"]) for one in found)


def _box(values: Sequence[float]) -> Box:
    x1, y1, x2, y2 = values
    return x1, y1, x2, y2
