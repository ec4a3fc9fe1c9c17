"""The cases of fixtures/config/: which paths a document is told about, and in what words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coordexp.config import ConfigError, load_config
from coordexp.config.document import removed_keys
from coordexp.config.problems import render_path
from coordexp.config.rules import build_rule
from coordexp.config.stage2_checks import flat_knobs
from tests.unit.config.minimal import DOCUMENTS, TWO_CHANNEL, problems, problems_of, with_values, write

FOLDER = Path("fixtures/config")


def cases(name: str) -> list[Any]:
    """The cases of a file, each under its description."""
    rows = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["cases"]
    return [pytest.param(row["input"], row["expect"], id=row["description"].replace(" ", "-")) for row in rows]


def named_paths(folder: Path, given: dict[str, Any]) -> list[str]:
    """The paths that a case's document is told about; none when it loads."""
    path = write(folder, with_values(DOCUMENTS[given["document"]], given["values"]))
    try:
        load_config(path)
    except ConfigError as error:
        return sorted(render_path(problem.path) for problem in error.problems)
    return []


@pytest.mark.invariant("CONFIG-001")
@pytest.mark.invariant("CONFIG-003")
@pytest.mark.invariant("CONFIG-016")
@pytest.mark.parametrize(("given", "expected"), cases("reading"))
def test_what_is_read_is_one_value_or_one_problem(tmp_path, given, expected):
    path = write(tmp_path, DOCUMENTS["stage1"])
    path.write_text(path.read_text() + given["add"], encoding="utf-8")
    if expected:
        assert problems_of(path) == [f"run.yaml:{line}" for line in expected]
    else:
        assert load_config(path).custom.train_jsonl == "train.jsonl"


@pytest.mark.invariant("CONFIG-007")
@pytest.mark.parametrize(("given", "expected"), cases("cross_checks"))
def test_keys_that_break_together_are_named(tmp_path, given, expected):
    assert named_paths(tmp_path, given) == sorted(expected)


@pytest.mark.invariant("CONFIG-009")
@pytest.mark.parametrize(("given", "expected"), cases("lengths"))
def test_lengths_leave_room_for_each_other(tmp_path, given, expected):
    assert named_paths(tmp_path, given) == sorted(expected)


@pytest.mark.invariant("CONFIG-029")
@pytest.mark.parametrize(("given", "expected"), cases("ranking"))
def test_checkpoints_are_ranked_by_what_an_evaluation_measures(tmp_path, given, expected):
    values = {"training.metric_for_best_model": given["metric"], "training.greater_is_better": True}
    if "detection" in given:
        values["rollout_matching.eval_detection.enabled"] = given["detection"]
    assert named_paths(tmp_path, {"document": given["document"], "values": values}) == sorted(expected)


@pytest.mark.invariant("CONFIG-011")
@pytest.mark.invariant("CONFIG-028")
@pytest.mark.parametrize(("given", "expected"), cases("variants"))
def test_a_variant_has_its_own_sections_and_no_others(tmp_path, given, expected):
    assert named_paths(tmp_path, given) == sorted(expected)


@pytest.mark.invariant("CONFIG-013")
@pytest.mark.parametrize(("given", "expected"), cases("pipelines"))
def test_pipeline_modules_are_known_single_and_closed(tmp_path, given, expected):
    assert named_paths(tmp_path, given) == sorted(expected)


@pytest.mark.invariant("CONFIG-015")
@pytest.mark.parametrize(("given", "expected"), cases("legacy_keys"))
def test_an_old_key_or_value_is_told_what_to_write(tmp_path, given, expected):
    found = problems(tmp_path, with_values(DOCUMENTS[given["document"]], given["values"]))
    assert [problem for problem in found if f": {expected['path']}: " in problem and expected["says"] in problem]


@pytest.mark.invariant("CONFIG-015")
@pytest.mark.parametrize(("key", "text"), list(removed_keys(build_rule())))
def test_every_removed_key_gives_its_guidance_and_is_no_key_any_more(tmp_path, key, text):
    name, is_value, value = key.partition(": ")
    document = _filled(name)
    section = document
    for part in name.split(".")[:-1]:
        section = section[part.removesuffix("[]")]
        section = section[0] if part.endswith("[]") else section
    section[name.split(".")[-1]] = value if is_value else 1
    assert any(text in problem for problem in problems(tmp_path, document))


def _filled(key: str) -> dict[str, Any]:
    """A document in which all the sections above `key` exist."""
    return with_values(
        TWO_CHANNEL,
        {
            **{part: {} for part in ("quantization", "rlhf", "template", "tuner")},
            **{f"custom.{part}": {} for part in ("extra", "coord_tokens")},
            "training.lr_scheduler_kwargs": {},
            "stage2_ab.channel_b": {},
            **{
                f"{section}.pipeline": {"objective": [{"name": "token_ce"}], "diagnostics": [{"name": "coord_diag"}]}
                for section in ("stage2_ab", "rollout_matching")
            },
            **{f"rollout_matching.{part}": {} for part in ("eval_detection", "monitor_dump", "vllm.sync")},
        },
    )


@pytest.mark.invariant("CONFIG-012")
@pytest.mark.parametrize(("key", "target"), [*flat_knobs(), ("custom.coord_soft_ce_w1", "coord_reg soft_ce_weight")])
@pytest.mark.parametrize("pipeline", [True, False])
def test_a_flat_weight_beside_an_authored_pipeline_is_refused(tmp_path, key, target, pipeline):
    value = {"enabled": True} if key.endswith("w1") else build_default(key)
    document = with_values(TWO_CHANNEL, {key: value})
    if not pipeline:
        assert load_config(write(tmp_path, document))
        return
    (problem,) = problems(tmp_path, with_values(document, {"stage2_ab.pipeline.objective": [{"name": "token_ce"}]}))
    assert f": {key}: stage2_ab.pipeline takes its place; move it there, to {target}" in problem


def build_default(key: str) -> Any:
    """The default of a dotted key."""
    rule = build_rule()
    for part in key.split("."):
        assert rule.properties is not None
        rule = rule.properties[part]
    return rule.default


@pytest.mark.invariant("CONFIG-012")
def test_the_flat_weights_are_those_of_the_default_manifest():
    names = {key.removeprefix("stage2_ab.") for key, _ in flat_knobs()}
    assert names == {
        "desc_ce_weight", "fmt_struct_ce_weight", "bbox_smoothl1_weight", "bbox_ciou_weight", "coord_ce_weight",
        "coord_el1_weight", "coord_ehuber_weight", "coord_entropy_weight", "coord_gate_weight", "text_gate_weight",
        "channel_b.drop_invalid_struct_ce_multiplier",
    }  # fmt: skip


@pytest.mark.invariant("CONFIG-012")
def test_rollout_aligned_training_refuses_coord_weights_beside_its_pipeline(tmp_path):
    values = {"custom.coord_soft_ce_w1.enabled": True, "rollout_matching.pipeline.objective": [{"name": "token_ce"}]}
    (problem,) = problems(tmp_path, with_values(DOCUMENTS["aligned"], values))
    assert ": custom.coord_soft_ce_w1: rollout_matching.pipeline takes its place" in problem


@pytest.mark.invariant("CONFIG-012")
def test_an_inherited_flat_weight_is_removed_by_null(tmp_path):
    write(tmp_path, with_values(TWO_CHANNEL, {"stage2_ab.bbox_ciou_weight": 0.5}), "base.yaml")
    child = {"extends": "base.yaml", "stage2_ab": {"pipeline": {"objective": [{"name": "token_ce"}]}}}
    assert len(problems(tmp_path, child)) == 1
    child["stage2_ab"]["bbox_ciou_weight"] = None
    assert load_config(write(tmp_path, child)).stage2_ab.bbox_ciou_weight == 1.0


@pytest.mark.invariant("CONFIG-029")
def test_a_metric_that_nothing_measures_is_told_the_nearest_and_all_that_are(tmp_path):
    ranked = {"training.metric_for_best_model": "rollout/map", "training.greater_is_better": True}
    (problem,) = problems(tmp_path, with_values(DOCUMENTS["aligned"], ranked))
    told, _, allowed = problem.partition("allowed: ")
    assert told == (
        "run.yaml:13: training.metric_for_best_model: no evaluation of stage 2 measures 'rollout/map'; "
        "did you mean rollout/mAP? "
    )
    (problem,) = problems(tmp_path, with_values(DOCUMENTS["stage1"], ranked))
    shared = problem.partition("allowed: ")[2].split(", ")
    assert shared[0] == "loss" and allowed.split(", ")[: len(shared)] == shared
    own = allowed.split(", ")[len(shared) :]
    assert own and all(name.startswith(("rollout/", "time/rollout_")) for name in own)
    assert not any("rollout" in name for name in shared)


@pytest.mark.invariant("CONFIG-029")
def test_map_without_detection_is_told_where_detection_is_turned_off(tmp_path):
    ranked = {"training.metric_for_best_model": "eval_rollout/mAP", "training.greater_is_better": True}
    values = {**ranked, "rollout_matching.eval_detection.enabled": False}
    (problem,) = problems(tmp_path, with_values(DOCUMENTS["aligned"], values))
    assert problem == (
        "run.yaml:13: training.metric_for_best_model: nothing measures rollout/mAP while "
        "rollout_matching.eval_detection.enabled is false; turn it on, or rank by another metric"
    )
    nothing = with_values(DOCUMENTS["aligned"], ranked | {"rollout_matching": None})
    assert [problem.partition(": ")[2] for problem in problems(tmp_path, nothing)] == [
        "rollout_matching: needed by custom.trainer_variant stage2_rollout_aligned"
    ]


@pytest.mark.invariant("CONFIG-018")
@pytest.mark.parametrize("key", ["gpu_memory_utilization", "enforce_eager", "tensor_parallel_size", "dtype"])
def test_what_only_the_servers_launcher_reads_is_no_key(tmp_path, key):
    (problem,) = problems(tmp_path, with_values(TWO_CHANNEL, {f"rollout_matching.vllm.{key}": 1}))
    assert f": rollout_matching.vllm.{key}: removed: a server gets it from its launcher" in problem


@pytest.mark.invariant("CONFIG-018")
def test_an_engine_section_is_refused_in_server_mode_and_read_in_the_other(tmp_path):
    colocate = {"rollout_matching.vllm.colocate": {"gpu_memory_utilization": 0.3}}
    (problem,) = problems(tmp_path, with_values(TWO_CHANNEL, colocate))
    assert ": rollout_matching.vllm.colocate: mode is server: a server gets these from its launcher" in problem
    alone = {"rollout_matching.vllm": {"max_model_len": 6000, "mode": "colocate", "colocate": {"enforce_eager": False}}}
    config = load_config(write(tmp_path, with_values(TWO_CHANNEL, alone)))
    assert config.rollout_matching.vllm.colocate.enforce_eager is False
