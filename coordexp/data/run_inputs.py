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
from coordexp.data.paths import image_root
from coordexp.data.survey import FileSurvey, check_files

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


def check_record_files(config: Config) -> dict[Role, FileSurvey]:
    """Judge every record of the run and that its images exist; raises `RecordError` with all problems of all files."""
    return {
        role: check_files([file.jsonl], images="exists", root=file.image_root)[0]
        for role, file in find_record_files(config).items()
    }
