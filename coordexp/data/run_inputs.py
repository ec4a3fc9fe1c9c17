"""The record files that a configuration names, found and checked before anything heavy is loaded.

Contract ids: TRAIN-012.

In: a resolved config. Out: absolute paths by role and the folder each file's images start from.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from coordexp.config import Config, resolve_input
from coordexp.data.dataset import RecordDataset, draw_samples
from coordexp.data.paths import image_root
from coordexp.data.survey import FileSurvey, survey_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.data.types import Record

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


def configured_root(config: Config) -> Path | None:
    """`custom.image_root`, where it is set. Raises `ConfigError` for a folder that is not there."""
    written = config.custom.image_root
    return None if written is None else resolve_input(config, "custom.image_root", written)


def _record_file(config: Config, key: str, written: str) -> RecordFile:
    jsonl, root = resolve_input(config, key, written), configured_root(config)
    return RecordFile(jsonl, image_root(jsonl, os.environ) if root is None else root)


@dataclass(frozen=True, slots=True)
class RunSamples:
    """One role's file, what it holds, and the records of it that the run uses, in order."""

    file: RecordFile
    survey: FileSurvey
    records: RecordDataset


def read_run_samples(config: Config) -> dict[Role, RunSamples]:
    """Judge every record of the run by its contract and by its image's header, once, and draw those that the run uses.

    What is wrong stands in the surveys, so that all of it can be told at once; `draw_samples` then drew from the rest.
    Raises `ConfigError` for a file that is not there.
    """
    samples: dict[Role, RunSamples] = {}
    for role, file in find_record_files(config).items():
        survey = survey_file(file.jsonl, images="headers", root=file.image_root, keep=True)
        samples[role] = RunSamples(file, survey, draw_records(config, role, survey.kept))
    return samples


def draw_records(config: Config, role: Role, records: Sequence[Record]) -> RecordDataset:
    """Those of a file's records that a run of `config` uses, their objects in the order in which they are answered."""
    if not records:
        return RecordDataset(())
    custom, train = config.custom, role == "train"
    return draw_samples(
        records,
        sample_limit=custom.train_sample_limit if train else custom.val_sample_limit,
        with_replacement=custom.sample_with_replacement if train else custom.val_sample_with_replacement,
        object_ordering=custom.object_ordering,
        seed=config.training.seed,
        split=role,
    )
