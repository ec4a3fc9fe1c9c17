"""A short stage-1 run of a real checkpoint on a GPU: metrics, packing, artifacts (AUDIT-11.1)."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

VARIABLE = "COORDEXP_GPU_CHECKPOINT"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no Qwen3-VL checkpoint with coord tokens"),
]


@pytest.mark.invariant("TRAIN-011")
def test_a_real_checkpoint_trains_packed_and_leaves_weights_alone(stage1_kit: Stage1Kit) -> None:
    from coordexp.artifacts.checkpoint_policy import check_weights_only
    from coordexp.config import load_config
    from coordexp.training.stage1 import run_stage1

    config = stage1_kit.write(
        "gpu",
        model={"model": os.environ[VARIABLE], "torch_dtype": "bfloat16", "attn_impl": "sdpa"},
        tuner={"tuner_type": "lora", "lora_rank": 8},
        custom={"coord_offset": {"enabled": True}},
        training={"max_steps": 4, "bf16": True, "gradient_checkpointing": True, "learning_rate": 1e-4},
    )
    outcome = run_stage1(load_config(config))
    lines = [line for line in outcome.log_history if "loss" in line]
    assert len(lines) == 4
    assert all(math.isfinite(line["loss"]) and {"loss/struct_ce", "loss/coord_reg"} <= set(line) for line in lines)
    assert check_weights_only(outcome.checkpoint) == outcome.checkpoint
    manifest = json.loads((outcome.checkpoint.parent / "run_manifest.json").read_text(encoding="utf-8"))
    assert Path(manifest["data"]["train"]["path"]) == stage1_kit.train
