"""Checkpoints hold weights only."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordexp.artifacts.checkpoint_policy import CheckpointPolicyError, check_weights_only
from coordexp.spec import load_cases

CASES = load_cases(Path(__file__).parents[3] / "fixtures/artifacts/checkpoint_files.json").cases


@pytest.mark.invariant("ART-004")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_a_checkpoint_folder_holds_weights_and_what_loads_them(case, tmp_path):
    for name in case.input:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    if case.valid:
        assert check_weights_only(tmp_path) == tmp_path
    else:
        with pytest.raises(CheckpointPolicyError):
            check_weights_only(tmp_path)


@pytest.mark.invariant("ART-004")
def test_the_refusal_names_every_file_and_what_to_do(tmp_path):
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        CheckpointPolicyError, match=r"this one has optimizer\.pt, rng_state\.pth; save with save_only_model"
    ):
        check_weights_only(tmp_path)
    with pytest.raises(CheckpointPolicyError, match="no such checkpoint folder"):
        check_weights_only(tmp_path / "missing")
