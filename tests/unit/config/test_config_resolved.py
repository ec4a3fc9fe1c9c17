"""What comes out: the resolved dump, debug overrides, batch arithmetic, and paths that never follow the caller."""

from __future__ import annotations

import dataclasses
import json

import pytest

from coordexp.config import (
    ConfigError,
    check_effective_batch,
    load_config,
    render_resolved,
    resolve_input,
    resolve_output,
)
from tests.unit.config.minimal import ALIGNED, STAGE1, TWO_CHANNEL, problems, with_values, write


def reloaded(folder, config):
    """The configuration that its own resolved dump gives."""
    path = folder / "resolved.json"
    path.write_text(render_resolved(config), encoding="utf-8")
    return load_config(path)


@pytest.mark.invariant("CONFIG-006")
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"training.learning_rate": 1e-7, "training.adam_epsilon": 1e-12},
        {"custom.extra": {"note": 'a\u0085b\u2028c \U0001f600 \t"\\ \x7f é', "n": [1, 2.5e20, None, {"deep": True}]}},
        {"custom.extra": {"no": "no", "number": "1e3", "time": "12:30", "empty": "", "1": [], "map": {}}},
    ],
)
def test_the_resolved_dump_loads_to_an_equal_config(tmp_path, values):
    config = load_config(write(tmp_path, with_values(STAGE1, values)))
    assert reloaded(tmp_path, config) == config


@pytest.mark.invariant("CONFIG-006")
def test_the_resolved_dump_is_json_with_every_default(tmp_path):
    values = json.loads(render_resolved(load_config(write(tmp_path, TWO_CHANNEL))))
    assert values["training"]["seed"] == 17
    assert values["stage2_ab"]["text_gate_weight"] == 0.0
    assert values["rollout_matching"]["vllm"]["server"]["infer_timeout_s"] is None
    assert "sources" not in values


@pytest.mark.invariant("CONFIG-006")
def test_a_dump_with_an_authored_pipeline_holds_no_flat_weight(tmp_path):
    document = with_values(
        TWO_CHANNEL, {"stage2_ab.pipeline.objective": [{"name": "bbox_geo", "config": {"ciou_weight": 1}}]}
    )
    config = load_config(write(tmp_path, document))
    assert "bbox_ciou_weight" not in json.loads(render_resolved(config))["stage2_ab"]
    assert reloaded(tmp_path, config) == config


@pytest.mark.invariant("CONFIG-006")
def test_a_dump_with_a_rollout_aligned_pipeline_holds_no_coord_weights(tmp_path):
    document = with_values(ALIGNED, {"rollout_matching.pipeline.objective": [{"name": "bbox_geo"}]})
    config = load_config(write(tmp_path, document))
    assert "coord_soft_ce_w1" not in json.loads(render_resolved(config))["custom"]
    assert reloaded(tmp_path, config) == config


@pytest.mark.invariant("CONFIG-006")
def test_the_dump_writes_small_numbers_as_yaml_reads_them(tmp_path):
    config = load_config(write(tmp_path, with_values(STAGE1, {"training.learning_rate": 1e-7})))
    assert '"learning_rate": 1.0e-07,' in render_resolved(config)


@pytest.mark.invariant("CONFIG-006")
def test_what_json_can_not_write_is_not_dumped(tmp_path):
    config = load_config(write(tmp_path, STAGE1))
    odd = dataclasses.replace(config, custom=dataclasses.replace(config.custom, extra={"weight": float("nan")}))
    with pytest.raises(ValueError, match="not JSON compliant"):
        render_resolved(odd)


@pytest.mark.invariant("CONFIG-006")
def test_equal_values_make_equal_configs_wherever_they_are_written(tmp_path):
    write(tmp_path, STAGE1, "base.yaml")
    child = load_config(write(tmp_path, {"extends": "base.yaml"}))
    whole = load_config(tmp_path / "base.yaml")
    assert child == whole
    assert child != load_config(write(tmp_path, with_values(STAGE1, {"training.seed": 18}), "other.yaml"))


@pytest.mark.invariant("CONFIG-006")
def test_debug_overrides_are_applied_when_enabled(tmp_path):
    debug = {"output_dir": "tmp/out", "train_sample_limit": 8, "val_sample_limit": 4}
    off = load_config(write(tmp_path, with_values(STAGE1, {"debug": debug})))
    assert (off.training.output_dir, off.custom.train_sample_limit) == ("out", None)
    on = load_config(write(tmp_path, with_values(STAGE1, {"debug": {**debug, "enabled": True}})))
    assert (on.training.output_dir, on.training.logging_dir) == ("tmp/out", "tmp/out")
    assert (on.custom.train_sample_limit, on.custom.val_sample_limit) == (8, 4)
    assert reloaded(tmp_path, on) == on


@pytest.mark.invariant("CONFIG-010")
@pytest.mark.parametrize(
    ("effective", "per_device", "written", "world", "expected"),
    [
        (64, 1, None, 1, 64),
        (64, 2, None, 8, 4),
        (64, 2, 4, 8, 4),
        (8, 8, None, 1, 1),
        (None, 2, None, 8, 1),
        (None, 2, 3, 8, 3),
    ],
)
def test_accumulation_is_derived_or_equal(tmp_path, effective, per_device, written, world, expected):
    config = load_config(write(tmp_path, with_values(STAGE1, {
        "training.effective_batch_size": effective,
        "training.per_device_train_batch_size": per_device,
        "training.gradient_accumulation_steps": written,
    })))  # fmt: skip
    assert check_effective_batch(config, world) == expected


@pytest.mark.invariant("CONFIG-010")
@pytest.mark.parametrize(
    ("effective", "per_device", "written", "world", "says"),
    [
        (64, 1, None, 3, "64 is no multiple of per_device_train_batch_size 1 x 3 ranks = 3"),
        (4, 1, None, 8, "4 is no multiple of per_device_train_batch_size 1 x 8 ranks = 8"),
        (64, 2, 8, 8, "gives 4 accumulation steps, but gradient_accumulation_steps says 8"),
    ],
)
def test_a_batch_that_does_not_divide_over_the_ranks_is_refused(tmp_path, effective, per_device, written, world, says):
    path = write(tmp_path, with_values(STAGE1, {
        "training.effective_batch_size": effective,
        "training.per_device_train_batch_size": per_device,
        "training.gradient_accumulation_steps": written,
    }))  # fmt: skip
    with pytest.raises(ConfigError, match=f"training.effective_batch_size: .*{says}") as caught:
        check_effective_batch(load_config(path), world)
    assert caught.value.problems[0].where.startswith(f"{path}:")


@pytest.mark.invariant("CONFIG-010")
@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"effective_batch_size": 7, "per_device_train_batch_size": 2}, "effective_batch_size"),
        ({"effective_batch_size": 8, "gradient_accumulation_steps": 3}, "gradient_accumulation_steps"),
    ],
)
def test_a_batch_that_can_never_divide_is_refused_at_load(tmp_path, values, key):
    document = with_values(STAGE1, {f"training.{name}": value for name, value in values.items()})
    (problem,) = problems(tmp_path, document)
    assert f": training.{key}: " in problem


@pytest.mark.invariant("CONFIG-016")
def test_an_input_is_looked_for_beside_the_config_and_then_below_the_root(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("")
    config = load_config(write(tmp_path, STAGE1, "configs/deep/run.yaml"))
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "data").mkdir(parents=True)
    (elsewhere / "data" / "train.jsonl").write_text("")
    monkeypatch.chdir(elsewhere)
    assert resolve_input(config, "custom.train_jsonl", "data/train.jsonl") == tmp_path / "data" / "train.jsonl"
    (tmp_path / "configs" / "deep" / "data").mkdir()
    nearer = tmp_path / "configs" / "deep" / "data" / "train.jsonl"
    nearer.write_text("")
    assert resolve_input(config, "custom.train_jsonl", "data/train.jsonl") == nearer
    assert resolve_input(config, "custom.train_jsonl", str(elsewhere / "data")) == elsewhere / "data"


@pytest.mark.invariant("CONFIG-016")
def test_an_input_that_is_nowhere_is_refused_with_the_places_looked_at(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("")
    path = write(tmp_path, STAGE1, "configs/run.yaml")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "train.jsonl").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    config = load_config(path)
    with pytest.raises(ConfigError) as caught:
        resolve_input(config, "custom.train_jsonl", "train.jsonl")
    (problem,) = caught.value.problems
    assert problem.where == f"{path}:13"
    assert f"looked at {tmp_path}/configs/train.jsonl and {tmp_path}/train.jsonl" in problem.message


@pytest.mark.invariant("CONFIG-016")
def test_outputs_lie_below_the_root_whatever_the_callers_folder(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("")
    config = load_config(write(tmp_path, STAGE1, "configs/run.yaml"))
    monkeypatch.chdir("/")
    assert resolve_output(config, "output/x") == tmp_path / "output" / "x"
    assert str(resolve_output(config, "/abs/x")) == "/abs/x"


@pytest.mark.invariant("CONFIG-016")
def test_a_relative_config_path_is_read_from_the_callers_folder_once(tmp_path, monkeypatch):
    write(tmp_path, STAGE1)
    monkeypatch.chdir(tmp_path)
    config = load_config("run.yaml")
    monkeypatch.chdir("/")
    assert config.sources.path == tmp_path / "run.yaml"
