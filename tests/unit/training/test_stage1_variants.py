"""Stage 1 with an adapter, in bfloat16, and with gradient checkpointing: it trains, and leaves what reloads."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from coordexp.artifacts.checkpoint_policy import check_weights_only
from coordexp.config import ConfigError, config_warnings, load_config
from coordexp.config.layers import Depths, all_linear, module_kinds
from coordexp.encode.whole_model import check_whole_model

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

ROOT = Path(__file__).resolve().parents[3]


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


@pytest.mark.invariant("FWD-011")
@pytest.mark.parametrize(
    "training",
    [{}, {"gradient_checkpointing": True}, {"packing": False, "per_device_train_batch_size": 2}],
    ids=["packed", "checkpointed", "padded"],
)
def test_a_run_under_segments_logs_the_numbers_of_one_under_sdpa(
    stage1_kit: Stage1Kit, training: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    from coordexp.training.stage1 import run_stage1

    logged = {}
    for attn_impl in ("segments", "sdpa"):
        name = f"{attn_impl}_{request.node.callspec.id}"
        path = stage1_kit.write(name, model={"attn_impl": attn_impl}, training=training)
        lines = run_stage1(load_config(path)).log_history
        logged[attn_impl] = [line for line in lines if "loss" in line]
    assert len(logged["sdpa"]) == 2
    for ours, theirs in zip(logged["segments"], logged["sdpa"], strict=True):
        terms = [key for key in theirs if key.startswith("loss")]
        assert len(terms) > 4
        assert {key: ours[key] for key in terms} == pytest.approx({key: theirs[key] for key in terms}, rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


@pytest.mark.invariant("FWD-016")
def test_a_training_process_knows_segments(stage1_kit: Stage1Kit, tmp_path: Path) -> None:
    path = stage1_kit.write("fresh", model={"attn_impl": "segments"}, training={"max_steps": 1})
    command = [sys.executable, "-m", "coordexp.entrypoints.train", "--config", str(path)]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300)
    assert done.returncode == 0
    assert (path.parent / "run/final/model.safetensors").is_file()


@pytest.mark.invariant("TRAIN-026")
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_what_is_trained_below_bfloat16_weights_is_float32(stage1_kit: Stage1Kit, tied: bool) -> None:
    from coordexp.training.stage1 import run_stage1

    path = stage1_kit.write(
        f"adapter_bfloat16_{tied}",
        model={"torch_dtype": "bfloat16"},
        tuner={"tuner_type": "lora", "lora_rank": 4},
        training={"bf16": True},
        custom={"coord_offset": {"enabled": True, "tie_head": tied}},
    )
    config = load_config(path)
    assert config_warnings(config) == ()
    folder = run_stage1(config).checkpoint
    for name in ("adapter_model.safetensors", "coord_offset.safetensors"):
        tensors = load_file(folder / name)
        assert tensors and {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    offsets = load_file(folder / "coord_offset.safetensors")
    assert len(offsets) == (1 if tied else 2)
    assert all(tensor.abs().max() > 0 for tensor in offsets.values())


@pytest.mark.invariant("CONFIG-025")
@pytest.mark.skipif(torch.cuda.is_available(), reason="what a GPU applies is another matter")
def test_a_cpu_applies_bfloat16_autocast_and_drops_float16(
    stage1_kit: Stage1Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = losses(stage1_kit, "autocast_none")
    rounded, _ = losses(stage1_kit, "autocast_bf16", training={"bf16": True})
    assert rounded != plain and rounded == pytest.approx(plain, rel=1e-3)
    with pytest.raises(ConfigError, match=r"fp16: .* torch finds none here, so it would change nothing"):
        losses(stage1_kit, "autocast_fp16", training={"fp16": True})
    # The premise of that refusal, on the run that it keeps from beginning.
    monkeypatch.setattr("coordexp.training.build.check_run", lambda _: check_whole_model(stage1_kit.checkpoint))
    dropped, _ = losses(stage1_kit, "autocast_dropped", training={"fp16": True})
    assert dropped == plain


@pytest.mark.invariant("CONFIG-024")
@pytest.mark.parametrize("frozen", [(), ("vit",), ("llm", "aligner")], ids=["none", "vit", "all-but-vit"])
def test_all_linear_is_every_linear_layer_of_what_is_not_frozen(stage1_kit: Stage1Kit, frozen: tuple[str, ...]) -> None:
    from coordexp.training.stage1 import run_stage1

    keys = {f"freeze_{part}": True for part in frozen}
    path = stage1_kit.write(
        f"linear_{'_'.join(frozen)}", tuner={"tuner_type": "lora", **keys}, training={"max_steps": 1}
    )
    tensors = load_file(run_stage1(load_config(path)).checkpoint / "adapter_model.safetensors")
    found = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in tensors}
    assert found == set(all_linear(frozen, module_kinds(Depths(text=2, vision=2, mergers=2))))
