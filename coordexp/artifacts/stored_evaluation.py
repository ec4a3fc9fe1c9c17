"""Reads back what `evaluate --out` wrote: report.json and predictions.jsonl. Contract ids: ART-081, ART-082.

In: the folder, or predictions.jsonl alone. Out: for each image its truth, its answer and its file, as written;
scoring them again gives the report again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.evaluation_files import PREDICTIONS_NAME, REPORT_NAME, WrittenAnswer
from coordexp.artifacts.files import read_json_lines
from coordexp.coordjson import NO_CUT, DroppedObject, ParsedRollout
from coordexp.data.regions import IgnoreRegion
from coordexp.evaluation.collecting import without_collecting
from coordexp.evaluation.report import EvaluationError
from coordexp.evaluation.types import Box, Detection, FileImage, FileRow, ImagePrediction, ImageTruth
from coordexp.spec import ContractFileError, ContractViolation, check, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordexp.coordjson.rollout_types import Failure
    from coordexp.evaluation.types import ScorePolicy


@dataclass(frozen=True, eq=False)
class StoredAnswers:
    """The lines of a predictions.jsonl; `truth`, `predictions`, `images` (files), each of `samples`, and `lines` (as
    the file has them) follow them.
    """

    path: Path
    truth: tuple[ImageTruth, ...]
    predictions: tuple[ImagePrediction, ...]
    images: tuple[Path, ...]
    samples: tuple[tuple[ImagePrediction, ...], ...] = ()
    lines: tuple[Mapping[str, Any], ...] = ()

    @property
    def score_mode(self) -> ScorePolicy:
        """Where the scores come from, as all lines say; files of before do not say it."""
        mode: ScorePolicy = self.lines[0].get("score_mode", "given")
        return mode

    @property
    def written(self) -> tuple[WrittenAnswer, ...]:
        """What stands of the answers themselves, which is kept and not read."""
        return tuple(map(_written, self.lines))

    @property
    def sampled(self) -> tuple[tuple[WrittenAnswer, ...], ...]:
        """The same of the sampled answers."""
        return tuple(
            tuple(_written(line["samples"][number]) for line in self.lines) for number in range(len(self.samples))
        )

    def chosen(self, places: Sequence[int]) -> StoredAnswers:
        """The same, of the images at these places alone, in their order."""
        return replace(
            self,
            truth=tuple(self.truth[at] for at in places),
            predictions=tuple(self.predictions[at] for at in places),
            images=tuple(self.images[at] for at in places),
            samples=tuple(tuple(sample[at] for at in places) for sample in self.samples),
            lines=tuple(self.lines[at] for at in places) if self.lines else (),
        )


@dataclass(frozen=True, eq=False)
class StoredEvaluation:
    """An evaluation of an earlier day: its report and its answers."""

    folder: Path
    report: Mapping[str, Any]
    answers: StoredAnswers

    def chosen(self, places: Sequence[int]) -> StoredEvaluation:
        """The same, of the images at these places alone, in their order; the report stays that of all."""
        return replace(self, answers=self.answers.chosen(places))


def read_evaluation(folder: Path) -> StoredEvaluation:
    """The evaluation in `folder`. Raises `EvaluationError` for files that are not there or not of this form."""
    try:
        report = check("evaluation-report", read_json(folder / REPORT_NAME))
    except (ContractFileError, ContractViolation) as error:
        raise EvaluationError(f"{folder / REPORT_NAME}: no report of an evaluation: {error}") from error
    return StoredEvaluation(folder, report, read_answers(folder / PREDICTIONS_NAME))


@without_collecting()
def read_answers(path: Path) -> StoredAnswers:
    """The lines of a predictions.jsonl. Raises `EvaluationError` with file and line."""
    lines = _read_lines(path)
    counts = {len(line.get("samples", ())) for line in lines}
    if len(counts) > 1:
        raise EvaluationError(f"{path}: some lines hold {max(counts)} sampled answers and some {min(counts)}")
    modes = {line.get("score_mode", "given") for line in lines}
    if len(modes) > 1:
        raise EvaluationError(f"{path}: its lines have scores of several kinds: {', '.join(sorted(modes))}")
    return StoredAnswers(
        path,
        tuple(_truth(line) for line in lines),
        tuple(_prediction(line) for line in lines),
        tuple(Path(line["image"]) for line in lines),
        tuple(tuple(_sample(line, number) for line in lines) for number in range(max(counts, default=0))),
        tuple(lines),
    )


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        found = read_json_lines(path)
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror}); name a file that evaluate wrote") from error
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    lines: list[dict[str, Any]] = []
    first: dict[str, int] = {}
    for number, line in enumerate(found, 1):
        try:
            lines.append(check("evaluation-prediction", line))
        except ContractViolation as error:
            raise EvaluationError(f"{path}:{number}: no line of an evaluation: {error}") from error
        before = first.setdefault(line["sample_id"], number)
        if before != number:
            raise EvaluationError(
                f"{path}:{number}: answers {line['sample_id']!r} a second time, after line {before}; keep one of them"
            )
        turned = next((one["box"] for one in line["predictions"] if not _in_order(one["box"])), None)
        if turned is not None:
            raise EvaluationError(f"{path}:{number}: the box {turned} is x1, y1, x2, y2 with x1 > x2 or y1 > y2")
    if not lines:
        raise EvaluationError(f"{path}: holds no line; name a file that evaluate wrote")
    return lines


def _in_order(box: Sequence[float]) -> bool:
    return box[0] <= box[2] and box[1] <= box[3]


def _truth(line: Mapping[str, Any]) -> ImageTruth:
    absent, annotated = line.get("verified_absent"), line.get("annotated")
    return ImageTruth(
        sample_id=line["sample_id"],
        width=line["width"],
        height=line["height"],
        objects=_detections(line["ground_truth"]),
        split=line.get("split"),
        answer_tokens=line.get("answer_tokens"),
        ignore=tuple(IgnoreRegion(region["desc"], _box(region["box"])) for region in line.get("ignore", ())),
        verified_absent=None if absent is None else frozenset(absent),
        annotated=None if annotated is None else _file_image(annotated),
    )


def _file_image(found: Mapping[str, Any]) -> FileImage:
    width, height = found["shown"]
    rows = (FileRow(_box(row["bbox"]), row["area"], row["place"]) for row in found["rows"])
    return FileImage(found["image_id"], (width, height), tuple(rows))


def _prediction(line: Mapping[str, Any]) -> ImagePrediction:
    facts, failure = line.get("parse", {}), line["failure"]
    if line["text"] is None:
        return ImagePrediction(line["sample_id"], _detections(line["predictions"]), made_elsewhere=True)
    parsed = ParsedRollout(
        elements=tuple(_dropped(drop) for drop in line["dropped"]),
        length=line["response_tokens"],
        opening=NO_CUT,
        invalid_rollout=facts.get("invalid_rollout", False),
        truncated=line["truncated"],
        malformed_tail=facts.get("malformed_tail", False),
        failure=None if failure is None else failure["reason"],
    )
    limit = facts.get("token_limit", line["finish_reason"] == "length")
    return ImagePrediction(
        line["sample_id"],
        _detections(line["predictions"]),
        parsed,
        limit,
        line["response_tokens"],
        _unmapped(line),
    )


def _sample(line: Mapping[str, Any], number: int) -> ImagePrediction:
    found = line["samples"][number]
    failure: Failure | None = None if found["strict"] else "invalid_rollout"
    parsed = ParsedRollout((), found["response_tokens"], NO_CUT, False, found["truncated"], False, failure)
    return ImagePrediction(
        line["sample_id"],
        _detections(found["predictions"]),
        parsed,
        found["finish_reason"] == "length",
        found["response_tokens"],
        _unmapped(found),
    )


def _unmapped(found: Mapping[str, Any]) -> frozenset[str] | None:
    return frozenset(found["unmapped"]) if "unmapped" in found else None


def _written(found: Mapping[str, Any]) -> WrittenAnswer:
    failure = found.get("failure")
    message = None if failure is None else failure["message"]
    return WrittenAnswer(found["text"], found["finish_reason"], found["response_tokens"], message)


def _dropped(drop: Mapping[str, Any]) -> DroppedObject:
    # Where it stood among the tokens is not stored; its reason and words are all that is counted and shown.
    return DroppedObject(drop["reason"], (0, 0), 0, NO_CUT, (0, 0), drop["offending"])


def _detections(found: Sequence[Mapping[str, Any]]) -> tuple[Detection, ...]:
    return tuple(
        Detection(
            one["desc"], _box(one["box"]), one["score"], one.get("said"), _box(one["bbox"]) if "bbox" in one else None
        )
        for one in found
    )


def _box(values: Sequence[float]) -> Box:
    x1, y1, x2, y2 = values
    return x1, y1, x2, y2
