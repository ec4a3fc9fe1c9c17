"""The validation loss: counted by hand, however the set is split, and without a trace in the training that goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from coordexp.config import load_config
from tests.unit.training.by_hand import HandCount

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1}


def run(kit: Stage1Kit, name: str, **sections: Any) -> Any:
    from coordexp.training.stage1 import run_stage1

    return run_stage1(load_config(kit.write(name, **sections)))


def validation(outcome: Any) -> dict[str, float]:
    """The last validation line, keys without their prefix."""
    line = [line for line in outcome.log_history if "eval_loss" in line][-1]
    return {key.removeprefix("eval_"): value for key, value in line.items() if key.startswith("eval_")}


@pytest.mark.invariant("TRAIN-009")
def test_the_validation_loss_is_sums_over_counts_of_the_whole_set(stage1_kit: Stage1Kit) -> None:
    """Weights of the run's end, samples one by one, counted by hand; packed and padded, in batches of 1 and 2."""
    splits = {
        "packed": {"packing": True, "eval_packing": True},
        "side_by_side": {"packing": True, "eval_packing": False, "per_device_eval_batch_size": 2},
        "padded": {"packing": False, "per_device_eval_batch_size": 2},
        "one_by_one": {"packing": False},
    }
    found = {}
    for name, training in splits.items():
        # At rate 0 every split validates the same weights.
        still = {"learning_rate": 0.0, "vit_lr": 0.0, "aligner_lr": 0.0, "max_steps": 1}
        constant = {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"min_lr": None}}
        outcome = run(stage1_kit, f"validated_{name}", training={**EVERY_STEP, **still, **constant, **training})
        found[name] = validation(outcome)
    config = load_config(stage1_kit.root / "validated_packed/config.yaml")
    hand = HandCount(config, outcome.checkpoint, stage1_kit.val)
    assert len(hand.records) == 3 and len({len(record.objects) for record in hand.records}) > 1
    with torch.no_grad():
        counted = hand.step(range(3))
    components = {name: float(value) for name, value in counted.components().items()}
    for name, line in found.items():
        assert line["loss"] == pytest.approx(float(counted.total()), rel=2e-5), name
        logged = {key.removeprefix("loss/"): value for key, value in line.items() if key.startswith("loss/")}
        assert {"struct_ce", "desc_ce", "coord_reg", "geo"} <= logged.keys()
        assert logged == pytest.approx({key: components[key] for key in logged}, rel=2e-5, abs=1e-7), name
        assert line["data/samples_total"] == 3


@pytest.mark.invariant("TRAIN-021")
def test_a_training_line_after_a_validation_is_that_of_a_run_without_one(stage1_kit: Stage1Kit) -> None:
    """With dropout, so that a validation that draws a random number shows."""
    adapter = {"tuner_type": "lora", "lora_rank": 4, "lora_dropout": 0.5}
    shared = {
        "max_steps": 3,
        "num_train_epochs": 5,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "effective_batch_size": 3,
    }
    lines = []
    for name, extra in (("undisturbed", {}), ("validated", EVERY_STEP)):
        outcome = run(stage1_kit, f"trace_{name}", training={**shared, **extra}, tuner=adapter)
        lines.append([line for line in outcome.log_history if "loss" in line])
        validated = sum("eval_loss" in line for line in outcome.log_history)
        assert validated == (3 if extra else 0)
    timed = {"time/step_s", "time/data_s"}
    for without, with_validation in zip(*lines, strict=True):
        assert without.keys() == with_validation.keys()
        different = {key for key in without if without[key] != with_validation[key]}
        assert different <= timed
    assert all(line["time/step_s"] < 60 for line in lines[1])


@pytest.mark.invariant("TRAIN-021")
def test_what_a_validation_holds_is_not_counted_as_training(stage1_kit: Stage1Kit) -> None:
    outcome = run(stage1_kit, "apart", training={**EVERY_STEP, "max_steps": 2, "logging_steps": 2})
    (line,) = [line for line in outcome.log_history if "loss" in line and line["step"] == 2]
    first = next(line for line in outcome.log_history if "loss" in line)
    assert first["step"] == 1, "the first step is logged too"
    evaluations = [line for line in outcome.log_history if "eval_loss" in line]
    assert len(evaluations) == 2 and all(e["eval_data/samples_total"] == 3 for e in evaluations)
    assert line["packing/packs_total"] == 2, "the window since the last line holds one step of two packs"
    assert not any(key.startswith("eval_packing/") for e in evaluations for key in e)


@pytest.mark.invariant("TRAIN-021")
def test_what_training_has_gathered_outlasts_a_validation(stage1_kit: Stage1Kit) -> None:
    rare = {"max_steps": 2, "logging_steps": 2, "logging_first_step": False}
    (line,) = [
        line for line in run(stage1_kit, "gathered", training={**EVERY_STEP, **rare}).log_history if "loss" in line
    ]
    assert line["step"] == 2 and line["packing/packs_total"] == 4, "two steps of two packs, a validation between them"


@pytest.mark.invariant("ART-006")
def test_a_gauge_is_averaged_over_the_forwards_that_it_was_observed_in(stage1_kit: Stage1Kit) -> None:
    """The p90 error is one observation a forward: a line over two steps is the mean over their four forwards."""
    key = "coord_diag/stage1/expected_bin_abs_err_p90"
    still = {"learning_rate": 0.0, "vit_lr": 0.0, "aligner_lr": 0.0, "max_steps": 2, "num_train_epochs": 2}
    constant = {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"min_lr": None}, "warmup_ratio": 0.0}
    fine, coarse, single = (
        run(stage1_kit, name, training={**still, **constant, **extra})
        for name, extra in (
            ("gauge_each", {}),
            ("gauge_both", {"logging_steps": 2, "logging_first_step": False}),
            ("gauge_wide", {"per_device_train_batch_size": 2}),
        )
    )
    each = [line[key] for line in fine.log_history if "loss" in line]
    (both,) = [line[key] for line in coarse.log_history if "loss" in line]
    assert len(each) == 2 and each[0] != each[1]
    assert both == pytest.approx(sum(each) / 2, rel=1e-6)
    wide = [line[key] for line in single.log_history if "loss" in line]
    assert wide[0] != pytest.approx(each[0], rel=1e-9), "the percentile of two packs at once is another observation"
