"""A short stage-1 run of a real checkpoint through scripts/train.sh: metrics, packing, artifacts (AUDIT-11.1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.plugins.gpu_runs import (
    CHECKPOINT,
    TIMEOUT,
    check_stage1_steps,
    run_script,
    write_enlarged_shapes,
    write_leaf,
)

SHIPPED = "configs/stage1/smoke/gpu/checkpoint.yaml"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(TIMEOUT),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
    pytest.mark.skipif(
        CHECKPOINT not in os.environ, reason="COORDEXP_GPU_CHECKPOINT names no Qwen3-VL checkpoint with coord tokens"
    ),
]


@pytest.mark.invariant("TRAIN-011")
def test_a_real_checkpoint_trains_packed_and_leaves_weights_alone(
    tmp_path: Path, record_number: Callable[[str, float, str], None]
) -> None:
    from coordexp.artifacts.checkpoint_policy import check_weights_only

    data = write_enlarged_shapes(tmp_path / "data", {"train": 160, "val": 8}, 4)
    leaf = write_leaf(tmp_path / "stage1", SHIPPED, os.environ[CHECKPOINT], data)
    run = run_script("train.sh", leaf, gpus="0")
    assert len(run.steps) == 4
    check_stage1_steps(run.steps, 8192)
    for folder in (run.folder / "checkpoint-4", run.folder / "final"):
        assert check_weights_only(folder) == folder
    manifest = run.manifest()
    assert Path(manifest["data"]["train"]["path"]) == data["train"]
    assert any("eval_loss" in line for line in run.log)
    seconds = sum(line["time/step_s"] for line in run.steps[2:])
    record_number("training speed", sum(line["data/tokens_total"] for line in run.steps[2:]) / seconds, "tokens/s")
