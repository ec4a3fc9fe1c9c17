"""An unknown key in every section that there is, through the loader: refused by its path, and by nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from coordexp.config import load_config
from coordexp.config.problems import KeyPath, render_path
from coordexp.config.rules import Rule, build_rule
from tests.unit.config.minimal import ALIGNED, STAGE1, TWO_CHANNEL, problems, with_values, write

PIPELINE = {"objective": [{"name": "bbox_geo"}, {"name": "coord_reg"}], "diagnostics": [{"name": "coord_diag"}]}
STAGE1_SECTIONS = {
    **{part: {} for part in ("quantization", "template", "tuner", "rlhf", "debug", "deepspeed")},
    "training.lr_scheduler_kwargs": {},
    **{f"custom.{part}": {} for part in ("coord_tokens", "coord_soft_ce_w1", "bbox_geo", "coord_offset", "extra")},
    "custom.coord_offset.ids": {"start": 151670, "end": 152669},
}
ROLLOUTS = {
    f"rollout_matching.{part}": {}
    for part in ("decoding", "repeat_terminate", "eval_detection", "monitor_dump")
}  # fmt: skip
SERVERS = {"rollout_matching.vllm.sync": {}, "rollout_matching.vllm.server.debug_dump": {}}
COLOCATE = {"rollout_matching.vllm": {"mode": "colocate", "max_model_len": 6000, "colocate": {}}}
WHOLE = {
    "stage1": with_values(STAGE1, STAGE1_SECTIONS),
    "two_channel": with_values(TWO_CHANNEL, {**ROLLOUTS, **SERVERS, "stage2_ab.channel_b": {}}),
    "two_channel with a pipeline": with_values(TWO_CHANNEL, {"stage2_ab.pipeline": PIPELINE}),
    "aligned with a pipeline": with_values(ALIGNED, {"rollout_matching.pipeline": PIPELINE}),
    "aligned in one process": with_values(ALIGNED, {"rollout_matching.rollout_backend": "vllm", **COLOCATE}),
}


def sections(value: Any, rule: Rule, path: KeyPath = ()) -> list[KeyPath]:
    """Paths of the closed mappings of a document."""
    if isinstance(value, dict) and rule.properties is not None:
        inner = [spot for key, part in value.items() for spot in sections(part, rule.properties[key], (*path, key))]
        return [path, *inner]
    if isinstance(value, list) and rule.items is not None:
        return [spot for index, part in enumerate(value) for spot in sections(part, rule.items, (*path, index))]
    return []


def declared(rule: Rule, path: KeyPath = ()) -> set[KeyPath]:
    """Paths of all closed mappings that the schemas know, list indices left out."""
    if rule.items is not None:
        return declared(rule.items, path)
    parts = rule.properties or {}
    below = {spot for key, inner in parts.items() for spot in declared(inner, (*path, key))}
    return below | ({path} if rule.properties is not None else set())


CASES = [(name, path) for name, document in WHOLE.items() for path in sections(document, build_rule())]


@pytest.mark.invariant("CONFIG-003")
@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_documents_load(tmp_path, name):
    assert load_config(write(tmp_path, WHOLE[name])).training.run_name == "run"


@pytest.mark.invariant("CONFIG-003")
def test_every_section_of_the_schemas_is_tried():
    tried = {tuple(part for part in path if isinstance(part, str)) for _, path in CASES}
    assert tried == declared(build_rule())


@pytest.mark.invariant("CONFIG-003")
@pytest.mark.parametrize(("name", "path"), CASES, ids=[f"{name}: {render_path(path)}" for name, path in CASES])
def test_an_unknown_key_in_any_section_is_refused_by_its_path_alone(tmp_path, name, path):
    document = copy.deepcopy(WHOLE[name])
    section = document
    for part in path:
        section = section[part]
    section["unknown_flag"] = 1
    (problem,) = problems(tmp_path, document)
    assert f": {render_path((*path, 'unknown_flag'))}: unknown key" in problem


@pytest.mark.invariant("CONFIG-003")
@pytest.mark.parametrize("section", ["stage2_ab", "rollout_matching"])
@pytest.mark.parametrize(("part", "index"), [("objective", 0), ("objective", 1), ("diagnostics", 0)])
def test_an_unknown_key_of_a_modules_config_is_refused_by_its_path_alone(tmp_path, section, part, index):
    document = copy.deepcopy(WHOLE[f"{'two_channel' if section == 'stage2_ab' else 'aligned'} with a pipeline"])
    document[section]["pipeline"][part][index]["config"] = {"unknown_flag": 1}
    (problem,) = problems(tmp_path, document)
    assert f": {section}.pipeline.{part}[{index}].config.unknown_flag: unknown key" in problem
