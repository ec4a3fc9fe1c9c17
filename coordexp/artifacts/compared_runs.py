"""Two folders in, all that can be compared of them out: run manifests, and evaluations of the same images. ART-082.

A folder is a run's output folder, or one that `evaluate --out` wrote; one with neither is an error that says what was
looked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.evaluation_files import REPORT_NAME
from coordexp.artifacts.run_differences import Difference, find_differences
from coordexp.artifacts.run_manifest import MANIFEST_NAME, read_run_manifest
from coordexp.artifacts.stored_evaluation import StoredEvaluation, read_evaluation
from coordexp.evaluation.bootstrap import Resampling
from coordexp.evaluation.comparison import Comparison, compare_answers
from coordexp.evaluation.report import EvaluationError
from coordexp.spec import ContractFileError, ContractViolation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordexp.evaluation.types import ImageTruth


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One side of a comparison: at least one of `manifest` and `evaluation` is there."""

    folder: Path
    manifest: Mapping[str, Any] | None
    evaluation: StoredEvaluation | None


@dataclass(frozen=True, eq=False)
class Compared:
    """Two runs, A and B. `differences` is None where one has no manifest, `comparison` where one has no evaluation."""

    first: ComparedRun
    second: ComparedRun
    differences: tuple[Difference, ...] | None
    comparison: Comparison | None


def compare_folders(first: Path, second: Path, evaluation: str | None, resampling: Resampling) -> Compared:
    """Compare what the two folders hold. Evaluations are compared on the images that both answered.

    Raises `EvaluationError` for a folder that holds nothing to compare, and for evaluations of other records.
    """
    sides = find_run(first, evaluation), find_run(second, evaluation)
    manifests = [side.manifest for side in sides]
    differences = None
    if manifests[0] is not None and manifests[1] is not None:
        differences = tuple(find_differences(manifests[0], manifests[1]))
    one, other = (side.evaluation for side in sides)
    if one is None or other is None:
        if differences is None:
            raise EvaluationError(
                f"{first} and {second} have nothing in common to compare: give two runs, or two evaluations"
            )
        return Compared(*sides, differences, None)
    one, other = share_images(one, other)
    comparison = compare_answers(one.answers.truth, one.answers.predictions, other.answers.predictions, resampling)
    sides = replace(sides[0], evaluation=one), replace(sides[1], evaluation=other)
    return Compared(*sides, differences, comparison)


def share_images(first: StoredEvaluation, second: StoredEvaluation) -> tuple[StoredEvaluation, StoredEvaluation]:
    """Both, cut to the records that both answered, in the order of the first.

    A record is known by its line. Raises `EvaluationError` for evaluations of other records, or with another truth.
    """
    left, right = ({_line(image): place for place, image in enumerate(side.answers.truth)} for side in (first, second))
    shared = [line for line in left if line in right]
    other = [line for line in shared if _content(first, left[line]) != _content(second, right[line])]
    if other or not shared:
        what = f"hold line {other[0]} with another truth" if other else "share no record"
        raise EvaluationError(
            f"{first.folder} and {second.folder} {what}: {_records(first)} and {_records(second)}; evaluate both on "
            "one file, with or without --annotations alike"
        )
    return first.chosen([left[line] for line in shared]), second.chosen([right[line] for line in shared])


def _line(image: ImageTruth) -> str:
    return image.sample_id.rsplit(":", 1)[-1]


def _content(evaluation: StoredEvaluation, place: int) -> tuple[Any, ...]:
    image = evaluation.answers.truth[place]
    return image.width, image.height, image.objects, image.ignore


def _records(evaluation: StoredEvaluation) -> str:
    return str(evaluation.report.get("provenance", {}).get("jsonl", "records"))


def find_run(folder: Path, evaluation: str | None = None) -> ComparedRun:
    """What `folder` holds. `evaluation` is a folder below it that `evaluate --out` wrote.

    Without it, the folder itself or the only such folder right below it. An evaluation's manifest is that of the run
    that its checkpoint lies in. Raises `EvaluationError`.
    """
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: no such folder; name a run's output folder, or one that evaluate --out wrote")
    chosen = _evaluation_folder(folder, evaluation)
    stored = None if chosen is None else read_evaluation(chosen)
    manifest = _manifest(folder)
    if manifest is None and stored is not None:
        checkpoint = Path(stored.report.get("provenance", {}).get("checkpoint", folder))
        manifest = next((found for place in (checkpoint, *checkpoint.parents[:2]) if (found := _manifest(place))), None)
    if manifest is None and stored is None:
        raise EvaluationError(
            f"{folder}: holds neither {MANIFEST_NAME} nor {REPORT_NAME}; name a run's output folder, or one that "
            "evaluate --out wrote"
        )
    return ComparedRun(folder, manifest, stored)


def _evaluation_folder(folder: Path, name: str | None) -> Path | None:
    if name is not None:
        if not (folder / name / REPORT_NAME).is_file():
            raise EvaluationError(f"{folder / name}: holds no {REPORT_NAME}; name a folder that evaluate --out wrote")
        return folder / name
    if (folder / REPORT_NAME).is_file():
        return folder
    below = sorted(path.parent for path in folder.glob(f"*/{REPORT_NAME}"))
    if len(below) > 1:
        names = ", ".join(path.name for path in below)
        raise EvaluationError(f"{folder}: holds {len(below)} evaluations ({names}); choose one with --evaluation NAME")
    return below[0] if below else None


def _manifest(folder: Path) -> dict[str, Any] | None:
    if not (folder / MANIFEST_NAME).is_file():
        return None
    try:
        return read_run_manifest(folder)
    except (ContractFileError, ContractViolation) as error:
        raise EvaluationError(f"{folder / MANIFEST_NAME}: no run manifest of this version: {error}") from error
