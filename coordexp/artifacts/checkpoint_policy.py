"""Checkpoints hold weights and what is needed to load them, nothing of the trainer. Contract id: ART-004.

A folder enters and is returned, or an error lists every file that has no place in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LOADABLE = {".safetensors", ".json", ".jsonl", ".txt", ".jinja", ".md", ".yaml", ".tiktoken", ".model"}
"""Suffixes of weights, configuration, tokenizer and notes. Pickles (.pt, .pth, .bin, .pkl) are not among them."""
_STATE = re.compile(
    r"^(optimizer|scheduler|scaler|rng_state|random_states|trainer_state|training_args|global_step|latest\b)"
)


class CheckpointPolicyError(ValueError):
    """A checkpoint folder that holds trainer state, or no weights."""


def check_weights_only(folder: Path) -> Path:
    """Return `folder` if it holds safetensors weights and nothing of the trainer, at any depth.

    Raises `CheckpointPolicyError` listing each offending file: optimizer, scheduler, scaler, RNG and trainer state by
    name, and every file whose kind is not needed for loading.
    """
    if not folder.is_dir():
        raise CheckpointPolicyError(f"{folder}: no such checkpoint folder")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    offending = [path.as_posix() for path in files if _is_state(path)]
    if offending:
        raise CheckpointPolicyError(
            f"{folder}: a checkpoint holds weights only, but this one has {', '.join(offending)}; "
            "save with save_only_model, without optimizer, scheduler, RNG or trainer state"
        )
    if not any(path.suffix == ".safetensors" for path in files):
        raise CheckpointPolicyError(f"{folder}: holds no *.safetensors weights")
    return folder


def _is_state(path: Path) -> bool:
    return path.suffix not in _LOADABLE or any(_STATE.match(part) for part in path.parts)
