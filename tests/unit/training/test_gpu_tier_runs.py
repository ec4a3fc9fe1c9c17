"""The functions that the gpu tier runs, on a CPU: random weights of a small width, leaves of shipped configs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.plugins.gpu_runs import (
    SERVER_KEYS,
    Run,
    check_ab_telemetry,
    check_server_telemetry,
    check_stage1_steps,
    run_script,
    write_enlarged_shapes,
    write_leaf,
)
from tests.plugins.random_stage1 import (
    SMALL,
    TWO_BILLION,
    RandomPlan,
    build_random_model,
    run_apart,
    write_random_checkpoint,
)

if TYPE_CHECKING:
    from transformers import Qwen2TokenizerFast

ON_CPU: dict[str, dict[str, Any]] = {
    "model": {"torch_dtype": "float32"},
    "training": {"bf16": False, "gradient_checkpointing": False},
    "data": {
        "dataset_num_proc": 1,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "dataloader_prefetch_factor": None,
        "dataloader_persistent_workers": False,
    },
}


PLAN = RandomPlan(SMALL, samples=24, enlarge=2, steps=2, row=1024, dtype="float32", overrides=ON_CPU)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Path]]:
    """A checkpoint of random weights with the real vocabulary, and records."""
    root = tmp_path_factory.mktemp("pieces")
    write_random_checkpoint(root / "checkpoint", PLAN)
    return str(root / "checkpoint"), write_enlarged_shapes(root / "data", {"train": 24, "val": 4}, PLAN.enlarge)


def changed(line: dict[str, float], **changes: float | None) -> dict[str, float]:
    """A log line with other values; None takes a key away."""
    return {key: value for key, value in (line | changes).items() if value is not None}


@pytest.mark.invariant("TRAIN-063")
def test_the_shape_of_real_width_is_one(real_tokenizer: Qwen2TokenizerFast) -> None:
    """Without memory for it: on the meta device."""
    with torch.device("meta"):
        model = build_random_model(TWO_BILLION, real_tokenizer)
    assert 2.0e9 < sum(parameter.numel() for parameter in model.parameters()) < 2.3e9
    assert model.get_input_embeddings().weight.shape == (152_704, 2048)


@pytest.mark.slow
@pytest.mark.invariant("TRAIN-063")
def test_a_model_of_random_weights_is_built_and_trained(tmp_path: Path) -> None:
    """What the gpu tier does with the 2B shape, with a small one: two steps of rows of 1,024 tokens."""
    run = run_apart(tmp_path, PLAN, "")
    assert (run.device, run.peak_bytes, len(run.steps)) == ("cpu", 0, 2)
    assert run.parameters > 152_670 * SMALL.hidden
    check_stage1_steps(run.steps, PLAN.row)
    assert all("loss/geo" in line for line in run.steps)
    assert 0 < run.tokens_per_second < 1e6
    wrong = {"loss/coord_reg": None, "loss": float("nan"), "loss/made_up": 1.0, "data/tokens_total": 7.0,
             "data/samples_total": 1.0}  # fmt: skip
    for key, value in wrong.items():
        with pytest.raises((AssertionError, ValueError)):
            check_stage1_steps([run.steps[0], changed(run.steps[1], **{key: value})], PLAN.row)


@pytest.mark.slow
@pytest.mark.invariant("TRAIN-063")
def test_the_leaf_of_the_shipped_stage_1_config_trains(pieces: tuple[str, dict[str, Path]], tmp_path: Path) -> None:
    from coordexp.artifacts.checkpoint_policy import check_weights_only

    short = ON_CPU["training"] | {"max_steps": 2, "eval_steps": 2, "save_steps": 2, "effective_batch_size": 1}
    sections = ON_CPU | {"training": short}
    leaf = write_leaf(tmp_path / "leaf", "configs/stage1/smoke/gpu/checkpoint.yaml", *pieces, **sections)
    leaf.write_text(leaf.read_text() + "global_max_length: 1024\n")
    run = run_script("train.sh", leaf, CUDA_VISIBLE_DEVICES="")
    check_stage1_steps(run.steps, 1024)
    for folder in (run.folder / "checkpoint-2", run.folder / "final"):
        assert check_weights_only(folder) == folder
    assert run.manifest()["data"]["train"]["path"] == str(pieces[1]["train"])
    assert any("eval_loss" in line for line in run.log)


@pytest.mark.slow
@pytest.mark.invariant("TRAIN-063")
def test_the_leaf_of_the_shipped_stage_2_config_trains_and_its_log_is_judged(
    pieces: tuple[str, dict[str, Path]], tmp_path: Path
) -> None:
    short = ON_CPU["training"] | {"max_steps": 2, "eval_steps": 2, "save_steps": 2, "effective_batch_size": 2}
    sections = ON_CPU | {"training": short, "rollout_matching": {"max_new_tokens": 12}}
    leaf = write_leaf(tmp_path / "leaf", "configs/stage2_two_channel/smoke/gpu/hf.yaml", *pieces, **sections)
    run = run_script("train.sh", leaf, CUDA_VISIBLE_DEVICES="")
    check_ab_telemetry(run, "AB")
    with pytest.raises(AssertionError):
        check_ab_telemetry(run, "BA")
    a, b = run.steps
    rest = tuple(line for line in run.log if "loss" not in line)
    for fault in (
        {"rollout/gen_new_tokens_p99": None},
        {"stage2_ab/b_ratio_realized": 0.0},
        {"rollout/fn_total": 99.0},
    ):
        with pytest.raises(AssertionError):
            check_ab_telemetry(replace(run, log=(a, changed(b, **fault), *rest)), "AB")
    served = changed(b, **dict.fromkeys(SERVER_KEYS, 1.0))
    for fault in dict.fromkeys(SERVER_KEYS), {"rollout/weight_pushes_total": 0.0}:
        with pytest.raises(AssertionError):
            check_server_telemetry(Run(run.folder, (a, changed(served, **fault))), "0")
