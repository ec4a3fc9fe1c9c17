"""Keys at the ends of their ranges, where they act: 0, the cap, the cap + 1, and null."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordexp.config import Config, ConfigError, load_config
from coordexp.data.errors import RecordError
from coordexp.data.run_inputs import read_run_samples

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

CONSTANT = {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"min_lr": None}, "warmup_ratio": 0.0}


def load(kit: Stage1Kit, name: str, row: int = 512, **sections: Any) -> Config:
    return load_config(kit.write(f"end_{name}", row=row, **sections))


@pytest.mark.invariant("TRAIN-028")
@pytest.mark.parametrize(
    ("limit", "replace", "drawn"),
    [(None, False, 14), (1, False, 1), (13, False, 13), (14, False, 14), (15, False, 14), (15, True, 15), (1, True, 1)],
)
def test_a_sample_limit_at_the_size_of_the_file(
    stage1_kit: Stage1Kit, limit: int | None, replace: bool, drawn: int
) -> None:
    custom = {"train_sample_limit": limit, "sample_with_replacement": replace}
    found = read_run_samples(load(stage1_kit, f"limit_{limit}_{replace}", custom=custom))
    assert len(found["train"].records) == drawn
    assert len(found["val"].records) == 3, "the other file keeps its own limit"


@pytest.mark.invariant("TRAIN-028")
@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("custom", "train_sample_limit", 0),
        ("custom", "val_sample_limit", 0),
        ("training", "max_steps", 0),
        ("training", "logging_steps", 0),
        ("training", "save_total_limit", 0),
        ("training", "per_device_train_batch_size", 0),
        ("training", "num_train_epochs", 0),
        ("training", "warmup_ratio", 1.0),
        ("training", "max_grad_norm", -0.1),
        ("data", "dataloader_prefetch_factor", 2),
        ("data", "dataset_num_proc", 0),
    ],
)
def test_one_below_what_means_something_is_refused(stage1_kit: Stage1Kit, section: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.{key}: "):
        load(stage1_kit, f"below_{key}", **{section: {key: value}})


@pytest.mark.invariant("TRAIN-028")
def test_a_row_as_long_as_the_longest_sample_and_one_token_less(stage1_kit: Stage1Kit) -> None:
    from coordexp.training.build import build_foundation
    from coordexp.training.layout import lay_out

    wide = build_foundation(load(stage1_kit, "row_wide"))
    lengths = [wide.encoder.length(record) for record in wide.samples["train"].records]
    longest = max(lengths)
    exact = load(stage1_kit, "row_exact", row=longest)
    packs = lay_out(exact, build_foundation(exact))["train"]
    assert packs.cap == longest and (lengths.index(longest),) in packs.packs, "it fills a row alone"
    short = load(stage1_kit, "row_short", row=longest - 1)
    with pytest.raises(RecordError, match=rf"{longest} tokens .* exceed global_max_length = {longest - 1}"):
        build_foundation(short)


@pytest.mark.invariant("TRAIN-028")
def test_a_cap_of_pixels_as_large_as_the_largest_image_and_one_less(stage1_kit: Stage1Kit) -> None:
    from coordexp.training.build import build_foundation
    from coordexp.training.layout import lay_out

    found = read_run_samples(load(stage1_kit, "pixels_wide"))
    largest = max(record.width * record.height for record in found["train"].records)
    exact = load(stage1_kit, "pixels_exact", template={"max_pixels": largest}, custom={"val_jsonl": None})
    assert lay_out(exact, build_foundation(exact))["train"].packs
    short = load(stage1_kit, "pixels_short", template={"max_pixels": largest - 1}, custom={"val_jsonl": None})
    with pytest.raises(RecordError, match=rf"= {largest} pixels, above template.max_pixels = {largest - 1}"):
        build_foundation(short)


@pytest.mark.invariant("TRAIN-028")
@pytest.mark.parametrize(
    ("written", "vision", "aligner"), [((None, None), 7e-4, 7e-4), ((0.0, 0.0), 0.0, 0.0), ((0.0, 2e-3), 0.0, 2e-3)]
)
def test_a_rate_of_null_follows_the_language_model_and_0_is_0(
    stage1_kit: Stage1Kit, written: tuple[float | None, float | None], vision: float, aligner: float
) -> None:
    from coordexp.training.stage1 import build_stage1

    rates = {"learning_rate": 7e-4, "vit_lr": written[0], "aligner_lr": written[1], "weight_decay": 0.0}
    trainer = build_stage1(load(stage1_kit, f"rates_{vision}_{aligner}", training=rates | CONSTANT))
    optimizer = trainer.create_optimizer()
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(trainer.model.named_parameters())
    found = {name: rate[id(named[name])] for name in named if named[name].requires_grad}
    assert {value for name, value in found.items() if "visual" in name and "merger" not in name} == {vision}
    assert {value for name, value in found.items() if "merger" in name} == {aligner}
    assert {value for name, value in found.items() if "visual" not in name} == {7e-4}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}


@pytest.mark.invariant("TRAIN-028")
def test_steps_between_lines_validations_and_checkpoints(stage1_kit: Stage1Kit) -> None:
    from coordexp.training.stage1 import run_stage1

    training = {
        **CONSTANT,
        "max_steps": 5,
        "num_train_epochs": 9,
        "effective_batch_size": 2,
        "logging_steps": 2,
        "logging_first_step": False,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_delay_steps": 3,
        "save_total_limit": 2,
    }
    run = run_stage1(load(stage1_kit, "cadence", training=training))
    history = run.log_history
    assert [line["step"] for line in history if "loss" in line] == [2, 4]
    assert [line["step"] for line in history if "eval_loss" in line] == [3, 5], "every third step, and the last"
    saved = sorted(path.name for path in run.checkpoint.parent.glob("checkpoint-*"))
    assert saved == ["checkpoint-4", "checkpoint-5"], "from step 3 on, the last two kept"


@pytest.mark.invariant("TRAIN-028")
def test_an_epoch_that_ends_with_the_run_is_evaluated_once(stage1_kit: Stage1Kit) -> None:
    from coordexp.training.stage1 import run_stage1

    training = {**CONSTANT, "max_steps": -1, "num_train_epochs": 2, "eval_strategy": "epoch"}
    history = run_stage1(load(stage1_kit, "epochs", training=training)).log_history
    assert [line["step"] for line in history if "eval_loss" in line] == [2, 4], "2 steps an epoch"


@pytest.mark.invariant("TRAIN-028")
@pytest.mark.parametrize(("delay", "saved"), [(0, [1, 2]), (1, [1, 2]), (2, [2]), (3, [])])
def test_no_checkpoint_before_the_delay(stage1_kit: Stage1Kit, delay: int, saved: list[int]) -> None:
    from coordexp.training.stage1 import run_stage1

    training = {**CONSTANT, "save_strategy": "steps", "save_steps": 1, "save_delay_steps": delay}
    run = run_stage1(load(stage1_kit, f"delay_{delay}", training=training))
    assert sorted(int(p.name.split("-")[1]) for p in run.checkpoint.parent.glob("checkpoint-*")) == saved
    assert (run.checkpoint / "model.safetensors").is_file(), "a run ends with its weights whatever the delay"


@pytest.mark.invariant("TRAIN-028")
@pytest.mark.parametrize(
    ("training", "steps"),
    [
        ({"max_steps": -1, "num_train_epochs": 1}, 2),
        ({"max_steps": -1, "num_train_epochs": 0.5}, 1),
        ({"max_steps": -1, "num_train_epochs": 1.5}, 3),
        ({"max_steps": 1, "num_train_epochs": 3}, 1),
        ({"max_steps": 3, "num_train_epochs": 1}, 3),
    ],
)
def test_a_run_is_as_long_as_it_says(stage1_kit: Stage1Kit, training: dict[str, float], steps: int) -> None:
    from coordexp.training.stage1 import run_stage1

    name = "_".join(map(str, training.values()))
    run = run_stage1(load(stage1_kit, f"long_{name}", training={**CONSTANT, **training}))
    lines = [line for line in run.log_history if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, steps + 1)), "4 packs, 2 a step: an epoch has 2 steps"


@pytest.mark.invariant("TRAIN-028")
def test_a_largest_norm_of_0_clips_nothing(stage1_kit: Stage1Kit) -> None:
    """AdamW takes little notice of scale, so the gradients are looked at when the optimizer is about to step."""
    import torch
    from transformers import TrainerCallback

    from coordexp.training.stage1 import build_stage1

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.norms: list[float] = []

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            parts = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
            self.norms.append(float(torch.stack(parts).sum().sqrt()))

    norms = {}
    for limit in (0.0, 0.25):
        trainer = build_stage1(load(stage1_kit, f"norm_{limit}", training={**CONSTANT, "max_grad_norm": limit}))
        watch = Watch()
        trainer.add_callback(watch)
        trainer.train()
        norms[limit] = watch.norms
    assert len(norms[0.0]) == len(norms[0.25]) == 2
    assert all(norm > 0.5 for norm in norms[0.0]) and norms[0.25] == pytest.approx([0.25, 0.25], rel=1e-4)
