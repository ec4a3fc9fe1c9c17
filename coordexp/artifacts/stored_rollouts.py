"""The files of `rollout_matching.monitor_dump`: what they are called, and their lines read back. EVAL-078, EVAL-080.

In: `<run>/rollouts/step_<step>.jsonl` or `eval_<step>.jsonl`, whose lines are `coordexp:rollout-dump`. Out: for each
answer its truth, what was parsed, and how it was judged when it was written; nothing is matched again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.files import read_json_lines
from coordexp.artifacts.run_manifest import MANIFEST_NAME, read_run_manifest
from coordexp.coordjson import NO_CUT, DroppedObject, ParsedRollout
from coordexp.coords.types import CoordObject
from coordexp.data.regions import IgnoreRegion
from coordexp.evaluation.detections import pixel_box
from coordexp.evaluation.matching import Judgement
from coordexp.evaluation.report import EvaluationError
from coordexp.evaluation.types import Detection, ImagePrediction, ImageTruth
from coordexp.matching.types import Match
from coordexp.spec import ContractFileError, ContractViolation, check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOLDER = "rollouts"
SECTION = "rollout_matching.monitor_dump"
TRAIN, EVAL = "train", "eval"
MATCHED, FALSE, IGNORED = "matched", "fp", "ignored"
"""Fates of a valid object."""
FILE_NAMES = {TRAIN: "step_{:06}.jsonl", EVAL: "eval_{:06}.jsonl"}
"""Name of an event's file, by its mode."""
FILE_PATTERNS = {TRAIN: "step_*.jsonl", EVAL: "eval_*.jsonl"}
"""The names of a mode's files."""
_ROLES = {TRAIN: "train", EVAL: "val"}
_OBJECT_KEYS = frozenset({"desc", "kind", "bins"})
_KEYS = {MATCHED: _OBJECT_KEYS | {"truth", "iou"}, FALSE: _OBJECT_KEYS, IGNORED: _OBJECT_KEYS}
_DROPPED_KEYS = frozenset({"excerpt"})


@dataclass(frozen=True, eq=False)
class StoredRollout:
    """One line of a dump; `line` is what stands there."""

    truth: ImageTruth
    prediction: ImagePrediction
    judgement: Judgement
    line: Mapping[str, Any]


def read_rollouts(path: Path) -> tuple[StoredRollout, ...]:
    """The answers of one file, in its order. Raises `EvaluationError` with file and line."""
    try:
        found = read_json_lines(path)
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror}); name a file that training wrote") from error
    except ValueError as error:
        raise EvaluationError(f"{error}; take the line out, or move the file away") from error
    return tuple(_rollout(path, number, line) for number, line in enumerate(found, 1))


def image_root(run: Path, mode: str) -> Path:
    """The folder that the image paths of a run's dumps of `mode` start from.

    Raises `EvaluationError` where the run's manifest does not say it.
    """
    where = run / MANIFEST_NAME
    if not where.is_file():
        raise EvaluationError(
            f"{where} is not there, which says where the images of its {FOLDER}/ lie; put it back beside that folder"
        )
    try:
        data = read_run_manifest(run)["data"]
    except (ContractFileError, ContractViolation) as error:
        raise EvaluationError(f"{where} is no run manifest of this version: {error}") from error
    if _ROLES[mode] not in data:
        raise EvaluationError(f"{where} names no data.{_ROLES[mode]}, so where the images lie is not known")
    return Path(data[_ROLES[mode]]["image_root"])


def _rollout(path: Path, number: int, found: Any) -> StoredRollout:
    try:
        line = check("rollout-dump", found)
        valid = list(_valid(line["objects"]))
        judgement = _judgement(line, valid)
    except (ContractViolation, ValueError) as error:
        raise EvaluationError(
            f"{path}:{number}: no line of a rollout dump: {error}; take it out, or move the file away"
        ) from error
    size = line["width"], line["height"]
    truth = ImageTruth(
        line["sample_id"],
        *size,
        tuple(_detections(line["ground_truth"], size)),
        ignore=tuple(_region(region) for region in line["ignore"]),
    )
    prediction = ImagePrediction(
        line["sample_id"],
        tuple(_detections(valid, size)),
        _parsed(line),
        line["finish_reason"] == "length",
        line["response_tokens"],
    )
    return StoredRollout(truth, prediction, judgement, line)


def _valid(objects: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for entry in objects:
        lacking = sorted(_KEYS.get(entry["fate"], _DROPPED_KEYS) - entry.keys())
        if lacking:
            raise ValueError(f"an object that is {entry['fate']} lacks {', '.join(lacking)}")
        if entry["fate"] in _KEYS:
            yield entry


def _region(region: Mapping[str, Any]) -> IgnoreRegion:
    x1, y1, x2, y2 = region["bbox_2d"]
    return IgnoreRegion(region["desc"], (x1, y1, x2, y2))


def _judgement(line: Mapping[str, Any], valid: list[Mapping[str, Any]]) -> Judgement:
    """As it was written down. Raises `ValueError` where it does not fit the line's own ground truth."""
    matches = tuple(
        Match(number, entry["truth"], entry["iou"]) for number, entry in enumerate(valid) if entry["fate"] == MATCHED
    )
    told = sorted([*(match.truth for match in matches), *line["missed"]])
    if told != list(range(len(line["ground_truth"]))):
        raise ValueError(
            f"matched and missed name the objects {told}, and ground_truth has {len(line['ground_truth'])}"
        )
    return Judgement(matches, frozenset(number for number, entry in enumerate(valid) if entry["fate"] == IGNORED))


def _detections(entries: list[Mapping[str, Any]], size: tuple[int, int]) -> Iterator[Detection]:
    for entry in entries:
        yield Detection(
            entry["desc"], pixel_box(CoordObject(entry["desc"], entry["kind"], tuple(entry["bins"])), *size)
        )


def _parsed(line: Mapping[str, Any]) -> ParsedRollout:
    facts = line["parse"]
    # Where a dropped object stood among the tokens is not stored; its reason and words are all that is shown.
    dropped = (
        DroppedObject(entry["fate"], (0, 0), 0, NO_CUT, (0, 0), entry["excerpt"])
        for entry in line["objects"]
        if entry["fate"] not in _KEYS
    )
    return ParsedRollout(
        elements=tuple(dropped),
        length=line["response_tokens"],
        opening=NO_CUT,
        invalid_rollout=facts["invalid_rollout"],
        truncated=facts["truncated"],
        malformed_tail=facts["malformed_tail"],
        failure=facts["failure"],
    )
