"""Faults of single values: exact paths, what is allowed, the nearest match, and all of them at once."""

from __future__ import annotations

import pytest

from coordexp.config import ConfigError, load_config
from tests.unit.config.minimal import STAGE1, TWO_CHANNEL, problems, with_values, write


@pytest.mark.invariant("CONFIG-003")
def test_an_unknown_key_inside_a_list_is_refused_with_its_index(tmp_path):
    server = {"base_url": "http://127.0.0.1:8000", "group_port": 51216, "unknown_flag": 1}
    document = with_values(TWO_CHANNEL, {"rollout_matching.vllm.server.servers": [server]})
    (problem,) = problems(tmp_path, document)
    path = "rollout_matching.vllm.server.servers[0].unknown_flag"
    assert problem.endswith(f": {path}: unknown key; allowed: base_url, group_port")


@pytest.mark.invariant("CONFIG-003")
@pytest.mark.parametrize(
    "section",
    ["model", "data", "training", "custom", "tuner", "template", "rlhf", "quantization", "debug", "deepspeed"],
)
def test_an_unknown_key_of_a_section_is_refused(tmp_path, section):
    document = with_values(STAGE1, {f"{section}.zzz": 1})
    (problem,) = problems(tmp_path, document)
    assert f": {section}.zzz: unknown key; " in problem


@pytest.mark.invariant("CONFIG-003")
def test_an_unknown_section_is_refused(tmp_path):
    (problem,) = problems(tmp_path, {**STAGE1, "traning": {"seed": 1}})
    assert problem.startswith("run.yaml:15: traning: unknown key; did you mean training? allowed: model, quantization,")


@pytest.mark.invariant("CONFIG-003")
def test_a_key_that_only_custom_extra_would_take_is_refused_elsewhere(tmp_path):
    assert load_config(
        write(tmp_path, with_values(STAGE1, {"custom.extra.note": {"any": [1, "thing"]}}))
    ).custom.extra == {"note": {"any": [1, "thing"]}}
    (problem,) = problems(tmp_path, {**STAGE1, "extra": {"note": 1}})
    assert ": extra: removed: there is no top-level extra" in problem


@pytest.mark.invariant("CONFIG-007")
def test_every_problem_of_a_file_and_its_parents_is_reported_at_once(tmp_path):
    write(tmp_path, with_values(STAGE1, {"training.seed": -1, "tuner.train_type": "full"}), "base.yaml")
    document = {
        "extends": "base.yaml",
        "training": {"learning_rate": "fast", "bf16": True, "fp16": True, "eval_strategy": "steps"},
        "debug": {"enable": True},
    }
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, document))
    found = [".".join(map(str, problem.path)) for problem in caught.value.problems]
    assert found == [
        "training.eval_steps",
        "training.learning_rate",
        "training.fp16",
        "debug.enable",
        "training.seed",
        "custom.val_jsonl",
        "tuner.train_type",
    ]
    assert str(caught.value).startswith(f"{tmp_path}/run.yaml: 7 problems\n")


@pytest.mark.invariant("CONFIG-007")
def test_a_cross_check_whose_key_is_faulty_adds_no_second_problem(tmp_path):
    (problem,) = problems(tmp_path, with_values(STAGE1, {"training.eval_strategy": "stepz"}))
    assert "'stepz' is not allowed; did you mean steps? allowed: no, steps, epoch" in problem


@pytest.mark.invariant("CONFIG-007")
def test_problems_come_in_the_order_they_are_written(tmp_path):
    document = with_values(STAGE1, {"model.zzz": 1, "training.zzz": 1, "custom.zzz": 1})
    lines = [int(problem.split(":")[1]) for problem in problems(tmp_path, document)]
    assert lines == sorted(lines)
    assert len(set(lines)) == 3


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("training.learning_rate", "1e-4", "YAML reads it as text; write 0.0001 without quotes"),
        ("training.learning_rate", "1e-6", "YAML reads it as text; write 1.0e-06 without quotes"),
        ("training.seed", "17", "YAML reads it as text; write 17 without quotes"),
        ("training.seed", 17.0, "17.0 is not an integer: write 17"),
        ("training.seed", True, "true is not an integer"),
        ("training.seed", 2**31, "2147483648 is out of range, allowed is at least 0 and at most 2147483647"),
        ("training.eval_strategy", False, 'bare yes, no, on and off are YAML booleans; write it in quotes, as "no"'),
        ("training.adam_beta1", 1.0, "1.0 is out of range, allowed is at least 0 and below 1"),
        ("training.num_train_epochs", 0, "0 is out of range, allowed is above 0"),
        ("training.save_only_model", False, "false is not allowed, it must be true: Checkpoints hold weights"),
        ("training.report_to", ["tensorboard", "tensorboard"], "'tensorboard' is listed twice; keep one"),
        ("training.run_name", "", "is empty: Name of the run"),
        ("training", None, "null is not a mapping"),
        ("tuner.target_modules", [], "has 0 items, at least 1 needed"),
        ("tuner.target_modules", "all-linear", "'all-linear' is not a list"),
        ("template.truncation_strategy", "right", "write raise: a cut answer is no answer"),
        ("global_max_length", 12.5, "12.5 is not an integer"),
    ],
)
def test_a_wrong_value_is_refused_with_what_to_write(tmp_path, key, value, says):
    found = problems(tmp_path, with_values(STAGE1, {key: value}))
    assert any(f": {key}" in problem and says in problem for problem in found)


@pytest.mark.parametrize(
    "key",
    [
        "model.model",
        "training.output_dir",
        "training.run_name",
        "training.logging_dir",
        "custom.train_jsonl",
        "data.dataset",
        "data.val_dataset",
        "global_max_length",
    ],
)
def test_a_missing_required_key_is_named_with_what_it_is(tmp_path, key):
    document = with_values(STAGE1, {})
    section, _, name = key.partition(".")
    del (document[section] if name else document)[name or section]
    (problem,) = problems(tmp_path, document)
    assert f": {key}: required and missing: " in problem


@pytest.mark.invariant("CONFIG-017")
@pytest.mark.parametrize("value", [[], ["coco"], ["dummy", "coco"], "dummy", None])
@pytest.mark.parametrize("key", ["data.dataset", "data.val_dataset"])
def test_dataset_placeholders_are_exactly_dummy(tmp_path, key, value):
    found = problems(tmp_path, with_values(STAGE1, {key: value}))
    assert found
    assert all(f": {key}" in problem for problem in found)


@pytest.mark.invariant("CONFIG-017")
def test_the_loader_keeps_the_placeholders_beside_the_true_records(tmp_path):
    config = load_config(write(tmp_path, STAGE1))
    assert (config.data.dataset, config.data.val_dataset) == (("dummy",), ("dummy",))
    assert config.custom.train_jsonl == "train.jsonl"


@pytest.mark.invariant("CONFIG-008")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("custom.coord_tokens.enabled", False),
        ("custom.coord_tokens.skip_bbox_norm", False),
        ("custom.emit_norm", "norm1000"),
        ("custom.emit_norm", "norm100"),
        ("template.norm_bbox", "norm1000"),
        ("template.norm_bbox", "norm1"),
    ],
)
def test_another_coordinate_mode_or_a_second_normalization_is_refused(tmp_path, key, value):
    (problem,) = problems(tmp_path, with_values(STAGE1, {key: value}))
    assert f": {key}: " in problem
    assert "is not allowed" in problem


@pytest.mark.invariant("CONFIG-008")
@pytest.mark.parametrize(
    ("start", "end", "valid"), [(151670, 152669, True), (151669, 152669, False), (151670, 152670, False)]
)
def test_a_range_of_coord_ids_holds_1000_of_them(tmp_path, start, end, valid):
    document = with_values(STAGE1, {"custom.coord_offset.ids": {"start": start, "end": end}})
    if valid:
        ids = load_config(write(tmp_path, document)).custom.coord_offset.ids
        assert ids is not None
        assert (ids.start, ids.end) == (start, end)
    else:
        (problem,) = problems(tmp_path, document)
        assert "1001 ids; coord tokens are 1000 ids in a row" in problem
