"""Both channels of stage 2 on one GPU, with a real checkpoint that generates its rollouts itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.plugins.gpu_runs import (
    CHECKPOINT,
    TIMEOUT,
    check_ab_telemetry,
    run_script,
    write_enlarged_shapes,
    write_leaf,
)

SHIPPED = "configs/stage2_two_channel/smoke/gpu/hf.yaml"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(TIMEOUT),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
    pytest.mark.skipif(
        CHECKPOINT not in os.environ, reason="COORDEXP_GPU_CHECKPOINT names no Qwen3-VL checkpoint with coord tokens"
    ),
]


@pytest.mark.invariant("TRAIN-061")
def test_both_channels_train_on_one_gpu(tmp_path: Path, record_number: Callable[[str, float, str], None]) -> None:
    data = write_enlarged_shapes(tmp_path / "data", {"train": 64, "val": 8}, 4)
    leaf = write_leaf(tmp_path / "stage2", SHIPPED, os.environ[CHECKPOINT], data)
    run = run_script("train.sh", leaf, gpus="0")
    check_ab_telemetry(run, "ABAB")
    rolled = [line for line in run.steps if "rollout/samples_total" in line]
    tokens = sum(line["rollout/samples_total"] * line["rollout/gen_new_tokens_mean"] for line in rolled)
    seconds = sum(line["time/rollout_generate_s"] for line in rolled)
    record_number("generation speed of the learner", tokens / seconds, "tokens/s")
