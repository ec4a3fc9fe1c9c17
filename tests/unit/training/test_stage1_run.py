"""Stage 1 on the miniature: what it logs, what it writes, and what it does not depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from coordexp.config import ConfigError, load_config
from coordexp.losses.defaults import describe_objective, resolve_manifest

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

LOSSES = ("loss", "loss/struct_ce", "loss/desc_ce", "loss/coord_reg", "loss/geo")


def run(kit: Stage1Kit, name: str, **sections: dict[str, Any]) -> Any:
    from coordexp.training.stage1 import run_stage1

    return run_stage1(load_config(kit.write(name, **sections)))


def steps(outcome: Any) -> list[dict[str, float]]:
    """Log lines of training steps."""
    return [line for line in outcome.log_history if "loss" in line]


def losses(outcome: Any) -> list[float]:
    """Every component of every step, one after the other."""
    return [line[key] for line in steps(outcome) for key in LOSSES]


@pytest.fixture(scope="module")
def packed(stage1_kit: Stage1Kit) -> Any:
    return run(
        stage1_kit,
        "packed",
        training={"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 2},
    )


@pytest.mark.invariant("TRAIN-002")
def test_losses_do_not_depend_on_how_the_batch_is_split_over_accumulation_steps(
    stage1_kit: Stage1Kit, packed: Any
) -> None:
    at_once = run(stage1_kit, "at_once", training={"per_device_train_batch_size": 2})
    assert len(steps(at_once)) == len(steps(packed)) == 2, "a window that takes too many micro-batches ends the epoch"
    assert losses(at_once) == pytest.approx(losses(packed), rel=2e-5)
    assert [line["grad_norm"] for line in steps(at_once)] == pytest.approx(
        [line["grad_norm"] for line in steps(packed)], rel=1e-3
    )


@pytest.mark.invariant("TRAIN-002")
def test_losses_do_not_depend_on_packing(stage1_kit: Stage1Kit) -> None:
    everything = {"max_steps": 1, "num_train_epochs": 1, "per_device_train_batch_size": 14, "effective_batch_size": 14}
    packed = run(stage1_kit, "all_packed", training=everything)
    padded = run(stage1_kit, "all_padded", training=everything | {"packing": False})
    assert losses(padded) == pytest.approx(losses(packed), rel=2e-5)


@pytest.mark.invariant("TRAIN-002")
def test_a_partial_last_window_is_averaged_over_what_it_holds(stage1_kit: Stage1Kit) -> None:
    """At rate 0 the last window's mean lies between those of its packs only if it divides by its own counts."""
    still = {
        "learning_rate": 0.0,
        "vit_lr": 0.0,
        "aligner_lr": 0.0,
        "max_steps": -1,
        "num_train_epochs": 1,
        "lr_scheduler_type": "constant",
        "lr_scheduler_kwargs": {"min_lr": None},
        "warmup_ratio": 0.0,
    }
    sizes = {
        name: run(stage1_kit, name, training=still | {"effective_batch_size": size})
        for name, size in (("windows_of_3", 3), ("windows_of_1", 1))
    }
    packs = len(steps(sizes["windows_of_1"]))
    assert packs % 3, "the miniature must end in a partial window for this test to mean anything"
    last = steps(sizes["windows_of_1"])[packs - packs % 3 :]
    weights_differ = steps(sizes["windows_of_3"])[-1]["loss/struct_ce"]
    low, high = min(line["loss/struct_ce"] for line in last), max(line["loss/struct_ce"] for line in last)
    assert low - 1e-4 <= weights_differ <= high + 1e-4


@pytest.mark.invariant("TRAIN-007")
def test_the_same_seed_gives_the_same_numbers_with_and_without_workers(stage1_kit: Stage1Kit, packed: Any) -> None:
    workers = {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 2}
    again = run(stage1_kit, "workers", data=workers)
    assert losses(again) == losses(packed)
    other = run(stage1_kit, "other_seed", training={"seed": 99})
    assert losses(other) != losses(packed)


@pytest.mark.invariant("TRAIN-006")
def test_checkpoints_hold_weights_only_and_reload_to_what_was_trained(stage1_kit: Stage1Kit, packed: Any) -> None:
    from coordexp.artifacts.checkpoint_policy import check_weights_only

    folder = packed.checkpoint.parent
    for checkpoint in (folder / "checkpoint-1", folder / "checkpoint-2", packed.checkpoint):
        assert check_weights_only(checkpoint) == checkpoint
    final, last = (
        load_file(packed.checkpoint / "model.safetensors"),
        load_file(folder / "checkpoint-2/model.safetensors"),
    )
    first = load_file(folder / "checkpoint-1/model.safetensors")
    assert all(torch.equal(final[name], last[name]) for name in final)
    assert any(not torch.equal(final[name], first[name]) for name in final)


@pytest.mark.invariant("LOSS-030")
def test_a_run_logs_its_objective_when_it_starts(
    stage1_kit: Stage1Kit, packed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from coordexp.training.stage1 import run_stage1

    path = stage1_kit.write("logged", training={"max_steps": 1, "num_train_epochs": 1})
    config = load_config(path)
    with caplog.at_level(logging.INFO, logger="coordexp"):
        run_stage1(config)
    (said,) = [record.getMessage() for record in caplog.records if "resolved pipeline" in record.getMessage()]
    assert said == describe_objective(config, resolve_manifest(config))
    assert said.startswith(f"config: {path}; run_name: logged; seed: 17; objective: token_ce x1 AB, bbox_geo x1 AB")


@pytest.mark.invariant("LOSS-030")
def test_the_run_folder_says_how_to_repeat_the_run(stage1_kit: Stage1Kit, packed: Any) -> None:
    manifest = json.loads((packed.checkpoint.parent / "run_manifest.json").read_text(encoding="utf-8"))
    assert manifest["seeds"]["training"] == 17
    assert manifest["data"]["train"]["records"] == 14
    assert manifest["data"]["train"]["cook_manifest"]["document"]["records"]["kept"] == 14
    canonical = json.dumps(manifest["pipeline"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(canonical.encode()).hexdigest() == manifest["pipeline_checksum"]
    assert [module["name"] for module in manifest["pipeline"]["objective"]] == ["token_ce", "bbox_geo", "coord_reg"]
    assert list((packed.checkpoint.parent.parent / "tb").rglob("events.*"))


@pytest.mark.invariant("TRAIN-015")
def test_a_step_says_what_went_through_it_and_how_long_it_took(stage1_kit: Stage1Kit, packed: Any) -> None:
    from coordexp.metrics.table import check_key

    manifest = json.loads((packed.checkpoint.parent / "run_manifest.json").read_text(encoding="utf-8"))
    lines = steps(packed)
    assert all(line["packing/packs_total"] == 2 and 0 < line["packing/fill_rate"] <= 1 for line in lines)
    for line in lines:
        assert line["data/tokens_total"] == round(line["packing/fill_rate"] * 2 * 512)
        assert 0 < line["data/samples_total"] <= manifest["data"]["train"]["records"]
        assert 0 < line["data/objects_total"] < line["data/supervised_tokens_total"] < line["data/tokens_total"]
        assert 0 < line["time/data_s"] < line["time/step_s"] < 60
        assert line["grad_norm"] > 0 and line["data/boxes_total"] == line["data/objects_total"]
    evaluated = next(line for line in packed.log_history if "eval_loss" in line)
    assert evaluated["eval_data/samples_total"] == 3 and evaluated["eval_time/eval_s"] > 0
    own = {key.removeprefix("eval_") for line in packed.log_history for key in line if "/" in key}
    assert {check_key(key) for key in own} == own
    wide = {"per_device_train_batch_size": 2, "max_steps": 1, "num_train_epochs": 1}
    at_once = steps(run(stage1_kit, "wide_counts", training=wide))[0]
    counted = [key for key in lines[0] if key.startswith(("data/", "packing/"))]
    assert {key: at_once[key] for key in counted} == pytest.approx({key: lines[0][key] for key in counted})
    padded = steps(run(stage1_kit, "padded_counts", training={"packing": False, "max_steps": 1}))[0]
    assert not any(key.startswith("packing/") for key in padded) and padded["data/samples_total"] == 2


def test_validation_loss_is_reported_with_its_components(packed: Any) -> None:
    line = next(line for line in packed.log_history if "eval_loss" in line)
    assert line["eval_loss"] > 0
    assert {"eval_loss/struct_ce", "eval_loss/desc_ce", "eval_loss/coord_reg"} <= set(line)


@pytest.mark.invariant("TRAIN-009")
def test_validation_loss_does_not_depend_on_the_batch_size(stage1_kit: Stage1Kit, packed: Any) -> None:
    ranked = {"save_strategy": "best", "metric_for_best_model": "loss/struct_ce", "greater_is_better": False}
    evaluated = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 2}
    wide = run(stage1_kit, "wide_eval", training={**evaluated, **ranked})
    assert (wide.checkpoint.parent / "checkpoint-2").is_dir(), "a checkpoint is ranked by a term of the loss"
    found = [
        next(line["eval_loss"] for line in outcome.log_history if "eval_loss" in line) for outcome in (packed, wide)
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.invariant("TRAIN-008")
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples(stage1_kit: Stage1Kit, tmp_path: Path) -> None:
    import shutil

    from coordexp.training.errors import TrainingError

    broken = tmp_path / "broken"
    shutil.copytree(stage1_kit.checkpoint, broken)
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in weights if name.endswith("norm.weight"))
    weights[name] = torch.full_like(weights[name], float("nan"))
    from safetensors.torch import save_file

    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"records\.jsonl:\d+"):
        run(stage1_kit, "not_finite", model={"model": str(broken)})
    path = stage1_kit.write("not_finite_again", model={"model": str(broken)})
    done = subprocess.run(
        [sys.executable, "-m", "coordexp.entrypoints.train", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = [line for line in done.stderr.splitlines() if "error: step 0: the loss is nan" in line]
    assert (done.returncode, len(told), "Traceback" in done.stderr) == (1, 1, False), done.stderr[-2000:]
    assert "records.jsonl:" in told[0]


@pytest.mark.invariant("TRAIN-003")
def test_packing_is_refused_for_an_attention_that_is_not_proven(
    stage1_kit: Stage1Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"model\.attn_impl: training.packing: .*sdpa"):
        run(stage1_kit, "flash", model={"attn_impl": "flash_attention_3"})


@pytest.mark.invariant("TRAIN-005")
def test_each_part_of_the_model_has_its_learning_rate(stage1_kit: Stage1Kit) -> None:
    from coordexp.training.stage1 import build_stage1

    rates = {"learning_rate": 1e-3, "vit_lr": 2e-3, "aligner_lr": 3e-3}
    offsets = {"enabled": True, "tie_head": False, "embed_lr": 4e-3, "head_lr": 5e-3}
    config = load_config(stage1_kit.write("rates", training=rates, custom={"coord_offset": offsets}))
    trainer = build_stage1(config)
    optimizer = trainer.create_optimizer()
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found: dict[str, set[float]] = {}
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            part = (
                name.split(".")[0]
                if name.startswith("coord_offset")
                else "visual"
                if "visual" in name
                else "language_model"
            )
            if part == "visual" and "merger" in name:
                part = "aligner"
            if part == "coord_offset":
                part = name
            found.setdefault(part, set()).add(rate[id(parameter)])
    assert found == {
        "language_model": {1e-3},
        "visual": {2e-3},
        "aligner": {3e-3},
        "coord_offset.embed_offset": {4e-3},
        "coord_offset.own_head_offset": {5e-3},
    }


@pytest.mark.invariant("TRAIN-023")
def test_an_offset_range_that_is_not_the_tokenizers_is_refused(stage1_kit: Stage1Kit) -> None:
    offsets = {"enabled": True, "ids": {"start": 151670, "end": 152669}}
    with pytest.raises(ConfigError, match=r"ids: is 151670..152669, but the tokenizer's coord tokens are "):
        run(stage1_kit, "wrong_ids", custom={"coord_offset": offsets})


def test_the_first_sample_can_be_dumped_as_text(stage1_kit: Stage1Kit) -> None:
    outcome = run(stage1_kit, "dump", training={"max_steps": 1}, custom={"dump_conversation_text": True})
    text = (outcome.checkpoint.parent / "conversation.txt").read_text(encoding="utf-8")
    assert text.startswith("<|im_start|>user\n<|vision_start|>") and '"bbox_2d": [<|coord_' in text


@pytest.mark.invariant("TRAIN-010")
def test_a_whole_checkpoint_has_its_coord_offsets_merged_and_no_file_of_them(stage1_kit: Stage1Kit) -> None:
    offsets = {"enabled": True, "tie_head": False, "embed_lr": 1e-2, "head_lr": 1e-2}
    outcome = run(stage1_kit, "offsets", custom={"coord_offset": offsets})
    before, after = (
        load_file(stage1_kit.checkpoint / "model.safetensors"),
        load_file(outcome.checkpoint / "model.safetensors"),
    )
    assert not any(name.startswith("coord_offset") for name in after)
    assert not list(outcome.checkpoint.glob("coord_offset*"))
    first, last = stage1_kit.coord_range()
    ids = list(range(first, last + 1))
    name = next(name for name in before if name.endswith("embed_tokens.weight"))
    rest = torch.ones(before[name].shape[0], dtype=torch.bool)
    rest[ids] = False
    assert torch.equal(before[name][rest], after[name][rest])
    assert not torch.equal(before[name][ids], after[name][ids])
