"""What is handed to ms-swift, and what is not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from coordexp.config import ConfigError, load_config

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit


@pytest.mark.invariant("TRAIN-003")
def test_swift_gets_its_placeholders_and_never_packs_or_rescales(stage1_kit: Stage1Kit) -> None:
    from coordexp.training.arguments import build_swift_arguments

    arguments = build_swift_arguments(load_config(stage1_kit.write("arguments")))
    assert (arguments.dataset, arguments.val_dataset) == (["dummy"], ["dummy"])
    assert not arguments.packing and not arguments.padding_free
    assert arguments.norm_bbox == "none"
    assert arguments.save_only_model and not arguments.check_model
    assert arguments.training_args.logging_nan_inf_filter is False


@pytest.mark.invariant("TRAIN-003")
def test_events_go_to_the_runs_folder_whatever_the_shell_says(
    stage1_kit: Stage1Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coordexp.training.arguments import build_swift_arguments

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "/elsewhere")
    path = stage1_kit.write("events")
    build_swift_arguments(load_config(path))
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(path.parent / "tb")


@pytest.mark.invariant("TRAIN-016")
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_step_is_one_plan_to_upstream_and_checkpointing_is_never_reentrant(
    stage1_kit: Stage1Kit, checkpointing: bool
) -> None:
    from coordexp.training.arguments import build_swift_arguments

    training = {"effective_batch_size": 8, "per_device_train_batch_size": 2, "gradient_checkpointing": checkpointing}
    config = load_config(stage1_kit.write(f"one_plan_{checkpointing}", training=training))
    upstream = build_swift_arguments(config).training_args
    assert upstream.gradient_accumulation_steps == 1
    assert upstream.gradient_checkpointing == checkpointing
    assert upstream.gradient_checkpointing_kwargs == {"use_reentrant": False}


@pytest.mark.invariant("TRAIN-004")
@pytest.mark.parametrize(("ranks", "fine"), [(1, True), (2, True), (4, True), (3, False), (8, False)])
def test_an_effective_batch_that_does_not_divide_over_the_ranks_is_refused(
    stage1_kit: Stage1Kit, ranks: int, fine: bool
) -> None:
    from coordexp.training.arguments import swift_keyword_arguments

    training = {"effective_batch_size": 8, "per_device_train_batch_size": 2}
    config = load_config(stage1_kit.write(f"ranks_{ranks}", training=training))
    if fine:
        assert swift_keyword_arguments(config, stage1_kit.checkpoint, ranks)["gradient_accumulation_steps"] == 1
    else:
        with pytest.raises(ConfigError, match=rf"effective_batch_size: 8 is no multiple of .* x {ranks} ranks"):
            swift_keyword_arguments(config, stage1_kit.checkpoint, ranks)


@pytest.mark.invariant("TRAIN-003")
def test_steps_of_warm_up_take_the_place_of_an_inherited_ratio(stage1_kit: Stage1Kit) -> None:
    from coordexp.training.arguments import build_swift_arguments

    warm = {"warmup_ratio": 0.1, "warmup_steps": 5}
    arguments = build_swift_arguments(load_config(stage1_kit.write("warm", training=warm)))
    assert arguments.training_args.warmup_steps == 5
    ratio = build_swift_arguments(
        load_config(stage1_kit.write("ratio", training={"warmup_ratio": 0.1, "warmup_steps": 0}))
    )
    assert ratio.training_args.warmup_steps == 0.1
