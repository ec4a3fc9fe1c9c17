"""Stage 1 with an adapter, in bfloat16, and with gradient checkpointing: it trains, and leaves what reloads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from coordexp.artifacts.checkpoint_policy import check_weights_only
from coordexp.config import load_config

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit


def losses(kit: Stage1Kit, name: str, **sections: dict[str, Any]) -> tuple[list[float], set[str]]:
    from coordexp.training.stage1 import run_stage1

    outcome = run_stage1(load_config(kit.write(name, **sections)))
    files = {path.name for path in check_weights_only(outcome.checkpoint).iterdir()}
    return [line["loss"] for line in outcome.log_history if "loss" in line], files


@pytest.mark.invariant("TRAIN-006")
def test_an_adapter_with_coord_offsets_is_saved_beside_them(stage1_kit: Stage1Kit) -> None:
    found, files = losses(
        stage1_kit,
        "adapter",
        tuner={"tuner_type": "lora", "use_dora": True, "lora_rank": 4},
        training={"gradient_checkpointing": True},
        custom={"coord_offset": {"enabled": True}},
    )
    assert len(found) == 2 and all(math.isfinite(loss) for loss in found)
    assert {"adapter_model.safetensors", "coord_offset.safetensors", "coord_offset.json"} <= files
    assert "model.safetensors" not in files


@pytest.mark.invariant("TRAIN-008")
def test_bfloat16_with_gradient_checkpointing_trains(stage1_kit: Stage1Kit) -> None:
    found, files = losses(
        stage1_kit,
        "bfloat16",
        model={"torch_dtype": "bfloat16"},
        training={"bf16": True, "gradient_checkpointing": True},
    )
    assert len(found) == 2 and all(math.isfinite(loss) for loss in found)
    assert "model.safetensors" in files
