"""The record files that a configuration names, found and checked before anything heavy is loaded.

Contract ids: TRAIN-012.

In: a resolved config. Out: absolute paths by role and the folder each file's images start from.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coordexp.config import Config, resolve_input
from coordexp.data.dataset import RecordDataset, draw_samples
from coordexp.data.paths import image_root
from coordexp.data.survey import FileSurvey, check_surveys, survey_file

Role = Literal["train", "val"]


@dataclass(frozen=True, slots=True)
class RecordFile:
    """One JSONL file and the root of its image paths."""

    jsonl: Path
    image_root: Path


def find_record_files(config: Config) -> dict[Role, RecordFile]:
    """`custom.train_jsonl` and, where it is set, `custom.val_jsonl`.

    Raises `ConfigError` for a file that is not there.
    """
    custom = config.custom
    found: dict[Role, RecordFile] = {"train": _record_file(config, "custom.train_jsonl", custom.train_jsonl)}
    if custom.val_jsonl is not None:
        found["val"] = _record_file(config, "custom.val_jsonl", custom.val_jsonl)
    return found


def _record_file(config: Config, key: str, written: str) -> RecordFile:
    jsonl = resolve_input(config, key, written)
    if config.custom.image_root is None:
        return RecordFile(jsonl, image_root(jsonl, os.environ))
    return RecordFile(jsonl, resolve_input(config, "custom.image_root", config.custom.image_root))


@dataclass(frozen=True, slots=True)
class RunSamples:
    """One role's file, what it holds, and the records of it that the run uses, in order."""

    file: RecordFile
    survey: FileSurvey
    records: RecordDataset


def read_run_samples(config: Config) -> dict[Role, RunSamples]:
    """Judge every record of the run and that its images exist, once, and draw those that the run uses.

    Raises `ConfigError` for a file that is not there, `RecordError` with all problems of all files.
    """
    files = find_record_files(config)
    surveys = {
        role: survey_file(file.jsonl, images="exists", root=file.image_root, keep=True) for role, file in files.items()
    }
    check_surveys(list(surveys.values()))
    return {role: RunSamples(file, surveys[role], _draw(config, role, surveys[role])) for role, file in files.items()}


def _draw(config: Config, role: Role, survey: FileSurvey) -> RecordDataset:
    custom, train = config.custom, role == "train"
    return draw_samples(
        survey.kept,
        sample_limit=custom.train_sample_limit if train else custom.val_sample_limit,
        with_replacement=custom.sample_with_replacement if train else custom.val_sample_with_replacement,
        object_ordering=custom.object_ordering,
        seed=config.training.seed,
        split=role,
    )
