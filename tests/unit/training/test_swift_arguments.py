"""What is handed to ms-swift, and what is not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from coordexp.config import load_config

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit


@pytest.mark.invariant("TRAIN-003")
def test_swift_gets_its_placeholders_and_never_packs_or_rescales(stage1_kit: Stage1Kit) -> None:
    from coordexp.training.arguments import build_swift_arguments

    arguments = build_swift_arguments(load_config(stage1_kit.write("arguments")), stage1_kit.checkpoint)
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
    build_swift_arguments(load_config(path), stage1_kit.checkpoint)
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(path.parent / "tb")


@pytest.mark.invariant("TRAIN-004")
def test_accumulation_follows_from_the_effective_batch_and_the_ranks(stage1_kit: Stage1Kit) -> None:
    from coordexp.training.arguments import swift_keyword_arguments

    config = load_config(
        stage1_kit.write("ranks", training={"effective_batch_size": 8, "per_device_train_batch_size": 2})
    )
    found = [
        swift_keyword_arguments(config, stage1_kit.checkpoint, ranks)["gradient_accumulation_steps"]
        for ranks in (1, 2, 4)
    ]
    assert found == [4, 2, 1]


@pytest.mark.invariant("TRAIN-003")
def test_steps_of_warm_up_take_the_place_of_an_inherited_ratio(stage1_kit: Stage1Kit) -> None:
    from coordexp.training.arguments import build_swift_arguments

    warm = {"warmup_ratio": 0.1, "warmup_steps": 5}
    arguments = build_swift_arguments(load_config(stage1_kit.write("warm", training=warm)), stage1_kit.checkpoint)
    assert arguments.training_args.warmup_steps == 5
    ratio = build_swift_arguments(
        load_config(stage1_kit.write("ratio", training={"warmup_ratio": 0.1, "warmup_steps": 0})), stage1_kit.checkpoint
    )
    assert ratio.training_args.warmup_steps == 0.1
