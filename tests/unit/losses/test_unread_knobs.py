"""No knob of the objective is set in vain: turning it changes the pipeline's identity, or the loader refuses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordexp.config import ConfigError, load_config
from coordexp.config.rules import Rule, build_rule
from coordexp.losses.defaults import FLAT_KNOBS, resolve_manifest
from coordexp.losses.manifest import checksum
from tests.unit.config.minimal import DOCUMENTS, with_values, write

COORD, GEO = "custom.coord_soft_ce_w1", "custom.bbox_geo"
ON = {
    "stage1": {f"{COORD}.enabled": True, f"{GEO}.enabled": True},
    "two_channel": {f"{COORD}.enabled": True},
    "aligned": {f"{COORD}.enabled": True},
}
# What two-channel training weighs in stage2_ab instead.
ELSEWHERE = {"ce_weight": "coord_ce_weight", "gate_weight": "coord_gate_weight", "text_gate_weight": "text_gate_weight"}


def numbers(schema_id: str) -> dict[str, Rule]:
    """Keys of a section whose values are numbers."""
    rules = build_rule(schema_id).properties or {}
    return {key: rule for key, rule in rules.items() if {"number", "integer"} & set(rule.names)}


KNOBS = [
    "custom.desc_ce_weight",
    *(f"{COORD}.{key}" for key in numbers("coordexp:config/custom.coord_soft_ce_w1")),
    *(f"{GEO}.{key}" for key in numbers("coordexp:config/custom.bbox_geo")),
    *(f"stage2_ab.{key}" for key in FLAT_KNOBS),
]


def identity(folder: Path, document: str, values: dict[str, Any]) -> str:
    folder.mkdir(exist_ok=True)
    return checksum(resolve_manifest(load_config(write(folder, with_values(DOCUMENTS[document], values)))))


@pytest.mark.invariant("LOSS-028")
@pytest.mark.parametrize("document", list(ON))
@pytest.mark.parametrize("knob", KNOBS)
def test_turning_a_knob_changes_the_objective_or_is_refused(tmp_path: Path, document: str, knob: str) -> None:
    before = identity(tmp_path / "before", document, ON[document])
    try:
        after = identity(tmp_path / "after", document, ON[document] | {knob: 3})
    except ConfigError as error:
        assert any(".".join(map(str, problem.path)) in (knob, knob.split(".")[0]) for problem in error.problems)
        return
    assert after != before


@pytest.mark.invariant("LOSS-028")
@pytest.mark.parametrize(("name", "own"), list(ELSEWHERE.items()))
def test_two_channel_says_where_its_own_weight_stands(tmp_path: Path, name: str, own: str) -> None:
    path = write(tmp_path, with_values(DOCUMENTS["two_channel"], ON["two_channel"] | {f"{COORD}.{name}": 0.25}))
    with pytest.raises(ConfigError) as refusal:
        load_config(path)
    (problem,) = refusal.value.problems
    assert problem.path == (*COORD.split("."), name)
    assert problem.message == f"custom.trainer_variant stage2_two_channel does not read it; write stage2_ab.{own}"


@pytest.mark.invariant("LOSS-028")
def test_rollout_aligned_says_what_to_write_for_another_context(tmp_path: Path) -> None:
    modules = [
        {"name": "token_ce", "channels": ["A"], "config": {"desc_ce_weight": 0.5, "self_context_struct_ce_weight": 1}},
        {"name": "coord_reg", "config": {"self_context_soft_ce_weight": 1.0}},
    ]
    document = with_values(DOCUMENTS["aligned"], {"rollout_matching.pipeline": {"objective": modules}})
    with pytest.raises(ConfigError) as refusal:
        load_config(write(tmp_path, document))
    start = "custom.trainer_variant stage2_rollout_aligned "
    assert {problem.path[-1]: problem.message.removeprefix(start) for problem in refusal.value.problems} == {
        "channels": "is channel B, so this module never runs; add B, or write enabled: false",
        "desc_ce_weight": "does not read it; write rollout_fn_desc_weight",
        "self_context_struct_ce_weight": "does not read it; delete it",
        "self_context_soft_ce_weight": "does not read it; write soft_ce_weight",
    }


@pytest.mark.invariant("LOSS-028")
@pytest.mark.parametrize(
    ("b_ratio", "channel", "says"),
    [
        (0, "B", "b_ratio 0 makes steps of channel A, in which no module weighs anything; add A to channels"),
        (1.0, "A", "makes steps of channel B"),
        (0.5, "A", "makes steps of channel B"),
        (0.5, "B", "makes steps of channel A"),
    ],
)
def test_a_pipeline_runs_in_a_scheduled_channel(tmp_path: Path, b_ratio: float, channel: str, says: str) -> None:
    modules = [{"name": "token_ce", "channels": [channel]}, {"name": "bbox_geo", "enabled": False}]
    values = {"stage2_ab.pipeline": {"objective": modules}, "stage2_ab.schedule.b_ratio": b_ratio}
    with pytest.raises(ConfigError, match=says):
        load_config(write(tmp_path, with_values(DOCUMENTS["two_channel"], values)))


@pytest.mark.invariant("LOSS-028")
def test_a_pipeline_of_zero_weights_is_refused(tmp_path: Path) -> None:
    values = {"stage2_ab.pipeline": {"objective": [{"name": "token_ce", "weight": 0.0}]}}
    with pytest.raises(ConfigError, match="every module has weight 0, so nothing is learnt"):
        load_config(write(tmp_path, with_values(DOCUMENTS["two_channel"], values)))
