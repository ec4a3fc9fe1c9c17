"""The smallest configurations that load, one a trainer variant, and how to write and read them in a test."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordexp.config import ConfigError, load_config

STAGE1: dict[str, Any] = {
    "model": {"model": "some/checkpoint"},
    "data": {"dataset": ["dummy"], "val_dataset": ["dummy"]},
    "training": {"output_dir": "out", "run_name": "run", "logging_dir": "tb"},
    "custom": {"train_jsonl": "train.jsonl"},
    "global_max_length": 4000,
}
STAGE2_TRAINING = {**STAGE1["training"], "effective_batch_size": 8}
ALIGNED: dict[str, Any] = {
    **STAGE1,
    "training": STAGE2_TRAINING,
    "custom": {"train_jsonl": "train.jsonl", "trainer_variant": "stage2_rollout_aligned"},
    "rollout_matching": {},
}
TWO_CHANNEL: dict[str, Any] = {
    **STAGE1,
    "training": STAGE2_TRAINING,
    "custom": {"train_jsonl": "train.jsonl", "trainer_variant": "stage2_two_channel"},
    "stage2_ab": {"schedule": {"b_ratio": 0.5}},
    "rollout_matching": {
        "rollout_backend": "vllm",
        "vllm": {
            "max_model_len": 6000,
            "server": {"servers": [{"base_url": "http://127.0.0.1:8000", "group_port": 51216}]},
        },
    },
}
DOCUMENTS = {"stage1": STAGE1, "aligned": ALIGNED, "two_channel": TWO_CHANNEL}


def with_values(document: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy with dotted keys set; sections on the way are made."""
    result = copy.deepcopy(document)
    for key, value in values.items():
        *above, last = key.split(".")
        section = result
        for part in above:
            section = section.setdefault(part, {})
        section[last] = value
    return result


def write(folder: Path, document: dict[str, Any], name: str = "run.yaml") -> Path:
    """Write a document as YAML."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def problems_of(path: Path) -> list[str]:
    """The problems of a file that must not load, without the folder it lies in."""
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return [str(problem).replace(f"{path.parent.resolve()}/", "") for problem in caught.value.problems]


def problems(folder: Path, document: dict[str, Any]) -> list[str]:
    """The problems of a document that must not load."""
    return problems_of(write(folder, document))
