"""What the callers of a loaded configuration are told: trainers, ranks, input files, the reference page's command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coordexp.config import (
    ConfigError,
    check_effective_batch,
    load_config,
    resolve_input,
    resolve_output,
    units_per_step,
)
from coordexp.config.checks import check_trainer
from coordexp.config.document import main, render_reference
from tests.unit.config.minimal import ALIGNED, DOCUMENTS, STAGE1, with_values, write

ROOT = Path(__file__).resolve().parents[3]


def refusal(call, *arguments) -> str:
    """The text of the `ConfigError` that a call must raise."""
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.invariant("CONFIG-021")
def test_a_configuration_of_another_trainer_is_refused_where_it_says_so(tmp_path):
    aligned, plain = write(tmp_path, ALIGNED, "aligned.yaml"), write(tmp_path, STAGE1, "plain.yaml")
    config = load_config(plain)
    assert check_trainer(config, "stage1") is config
    told = "custom.trainer_variant: this trainer is {}'s, and the configuration is one for {}; "
    told += "give it to that trainer"
    assert refusal(check_trainer, load_config(aligned), "stage1") == (
        f"{aligned}: 1 problem\n  {aligned}:15: {told.format('stage1', 'stage2_rollout_aligned')}"
    )
    assert refusal(check_trainer, config, "stage2_two_channel") == (
        f"{plain}: 1 problem\n  {plain}: {told.format('stage2_two_channel', 'stage1')}"
    )


@pytest.mark.invariant("CONFIG-010")
def test_a_batch_that_does_not_divide_is_told_where_it_is_written(tmp_path):
    values = {"training.effective_batch_size": 64, "training.per_device_train_batch_size": 2}
    path = write(tmp_path, with_values(STAGE1, values))
    assert refusal(check_effective_batch, load_config(path), 3) == (
        f"{path}: 1 problem\n  {path}:12: training.effective_batch_size: 64 is no multiple of "
        "per_device_train_batch_size 2 x 3 ranks = 6; choose one that is"
    )
    path = write(tmp_path, with_values(STAGE1, {**values, "training.gradient_accumulation_steps": 8}))
    assert refusal(check_effective_batch, load_config(path), 8) == (
        f"{path}: 1 problem\n  {path}:12: training.effective_batch_size: 64 over per_device_train_batch_size 2 x 8 "
        "ranks = 16 gives 4 accumulation steps, but gradient_accumulation_steps says 8; drop that key"
    )


@pytest.mark.invariant("CONFIG-010")
def test_a_batch_that_is_written_nowhere_is_told_at_the_file(tmp_path):
    path = write(tmp_path, with_values(STAGE1, {"training.effective_batch_size": 64}))
    config = load_config(path)
    config = replace(config, sources=replace(config.sources, origins={}))
    assert f"\n  {path}: training.effective_batch_size: 64 is no multiple" in refusal(check_effective_batch, config, 3)


@pytest.mark.invariant("CONFIG-010")
@pytest.mark.parametrize("ranks", [0, -1])
def test_there_is_at_least_one_rank(tmp_path, ranks):
    config = load_config(write(tmp_path, STAGE1))
    with pytest.raises(ValueError, match=f"^world size is the number of ranks, at least 1, got {ranks}$"):
        check_effective_batch(config, ranks)


@pytest.mark.invariant("CONFIG-010")
@pytest.mark.invariant("CONFIG-028")
@pytest.mark.parametrize(
    ("variant", "values", "ranks", "expected"),
    [
        ("stage1", {}, 1, 1),
        ("stage1", {"per_device_train_batch_size": 2}, 3, 6),
        ("stage1", {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}, 3, 24),
        ("stage1", {"per_device_train_batch_size": 2, "effective_batch_size": 24}, 3, 24),
        ("two_channel", {"effective_batch_size": 8}, 1, 8),
        ("two_channel", {"effective_batch_size": 8, "per_device_train_batch_size": 3}, 4, 8),
        ("aligned", {"effective_batch_size": 6, "per_device_train_batch_size": 4}, 6, 6),
    ],
)
def test_a_step_counts_rows_in_stage_1_and_records_in_stage_2(tmp_path, variant, values, ranks, expected):
    values = {f"training.{key}": value for key, value in values.items()}
    config = load_config(write(tmp_path, with_values(DOCUMENTS[variant], values)))
    assert units_per_step(config, ranks) == expected


@pytest.mark.invariant("CONFIG-010")
@pytest.mark.invariant("CONFIG-028")
def test_a_step_that_does_not_divide_over_the_ranks_is_told_what_does(tmp_path):
    path = write(tmp_path, with_values(ALIGNED, {"training.effective_batch_size": 9}))
    config = load_config(path)
    told = "training.effective_batch_size: the 9 records of a step do not divide over {} ranks; write a multiple of {}"
    place = f"{path}: 1 problem\n  {path}:12: "
    assert refusal(units_per_step, config, 4) == f"{place}{told.format(4, 4)}, such as 12"
    assert refusal(units_per_step, config, 16) == f"{place}{told.format(16, 16)}, such as 16"
    path = write(tmp_path, with_values(STAGE1, {"training.effective_batch_size": 9}))
    assert "9 is no multiple of per_device_train_batch_size 1 x 4 ranks" in refusal(
        units_per_step, load_config(path), 4
    )


@pytest.mark.invariant("CONFIG-028")
@pytest.mark.parametrize("variant", DOCUMENTS)
@pytest.mark.parametrize("ranks", [0, -1])
def test_a_step_is_of_one_rank_at_least(tmp_path, variant, ranks):
    config = load_config(write(tmp_path, DOCUMENTS[variant]))
    with pytest.raises(ValueError, match=f"^world size is the number of ranks, at least 1, got {ranks}$"):
        units_per_step(config, ranks)


@pytest.mark.invariant("CONFIG-016")
def test_an_input_that_is_nowhere_is_told_with_its_key_and_the_places(tmp_path):
    (tmp_path / "pyproject.toml").write_text("")
    path = write(tmp_path, STAGE1, "configs/run.yaml")
    config = load_config(path)
    assert refusal(resolve_input, config, "custom.train_jsonl", "train.jsonl") == (
        f"{path}: 1 problem\n  {path}:13: custom.train_jsonl: 'train.jsonl' does not exist; looked at "
        f"{tmp_path}/configs/train.jsonl and {tmp_path}/train.jsonl"
    )
    assert refusal(resolve_input, config, "custom.val_jsonl", "/no/where") == (
        f"{path}: 1 problem\n  {path}: custom.val_jsonl: '/no/where' does not exist; looked at /no/where"
    )
    endless = "a" * 300
    told = f"{path}:13: custom.train_jsonl: '{endless}' does not exist; looked at "
    assert told in refusal(resolve_input, config, "custom.train_jsonl", endless)


@pytest.mark.invariant("CONFIG-016")
def test_an_absolute_output_stays_as_it_is_written(tmp_path):
    config = load_config(write(tmp_path, STAGE1))
    assert str(resolve_output(config, "/a/../b")) == "/a/../b"
    assert resolve_output(config, "a/../b").name == "b"


@pytest.mark.invariant("CONFIG-019")
def test_the_command_writes_the_reference_page_of_its_checkout(monkeypatch):
    written = {}

    def note(path, text, encoding=None):
        written[path] = (text, encoding)

    monkeypatch.setattr(Path, "write_text", note)
    assert main() == 0
    assert written == {ROOT / "docs" / "configuration.md": (render_reference(ROOT), "utf-8")}
