"""A configuration that can be used and does not mean what it seems to is told so, wherever it is read first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordexp.config import config_warnings, load_config
from coordexp.entrypoints import check_config, train
from tests.unit.config.minimal import ALIGNED, STAGE1, TWO_CHANNEL, with_values, write

pytestmark = pytest.mark.invariant("CONFIG-023")

CHEAP = {"rollout_matching.fp_cost": 0.2, "rollout_matching.fn_cost": 0.3}


def warnings_of(folder: Path, values: dict[str, float]) -> list[str]:
    path = write(folder, with_values(ALIGNED, {f"rollout_matching.{key}": value for key, value in values.items()}))
    return [str(warning).replace(f"{folder.resolve()}/", "") for warning in config_warnings(load_config(path))]


def test_costs_that_override_the_gate_are_named_with_the_gate_in_force(tmp_path):
    (warning,) = warnings_of(tmp_path, {"maskiou_gate": 0.4, "fp_cost": 0.2, "fn_cost": 0.3})
    assert warning == (
        "run.yaml:18: rollout_matching.maskiou_gate: leaving a pair apart costs fp_cost 0.2 + fn_cost 0.3, so none of "
        "mask IoU below 0.5 is matched, and maskiou_gate 0.4 is not the gate in force; raise a cost, or write "
        "maskiou_gate: 0.5"
    )


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        ({}, False),
        ({"fp_cost": 0.2, "fn_cost": 0.3}, True),
        ({"maskiou_gate": 0.5, "fp_cost": 0.2, "fn_cost": 0.3}, False),
        ({"maskiou_gate": 0.49, "fp_cost": 0.2, "fn_cost": 0.3}, True),
        ({"maskiou_gate": 0.0, "fp_cost": 0.0, "fn_cost": 1.0}, False),
        ({"maskiou_gate": 0.9, "fp_cost": 0.0, "fn_cost": 0.0}, True),
        # 1 - 0.5 - 0.2 is 0.30000000000000004.
        ({"maskiou_gate": 0.3, "fp_cost": 0.5, "fn_cost": 0.2}, False),
    ],
)
def test_a_warning_comes_only_where_the_gates_differ(tmp_path, values, warned):
    assert bool(warnings_of(tmp_path, values)) is warned


def test_what_the_warning_says_to_write_silences_it(tmp_path):
    values = {"maskiou_gate": 0.1, "fp_cost": 1 / 3, "fn_cost": 1 / 3}
    (warning,) = warnings_of(tmp_path, values)
    gate = float(warning.rpartition("maskiou_gate: ")[2])
    assert warnings_of(tmp_path, {**values, "maskiou_gate": gate}) == []


def test_a_default_gate_is_warned_about_where_the_cost_is_written(tmp_path):
    (warning,) = warnings_of(tmp_path, {"fn_cost": 0.0})
    assert warning.startswith("run.yaml:18: rollout_matching.fn_cost: ")


def test_stage_1_matches_nothing_and_is_not_warned(tmp_path):
    assert config_warnings(load_config(write(tmp_path, STAGE1))) == ()


def coord_warnings(folder: Path, entry: dict[str, Any], b_ratio: float = 0.5) -> list[str]:
    objective = [{"name": "token_ce"}, {"name": "coord_reg", **entry}]
    values = {"stage2_ab.schedule.b_ratio": b_ratio, "stage2_ab.pipeline": {"objective": objective}}
    path = write(folder, with_values(TWO_CHANNEL, values))
    return [str(warning).replace(f"{folder.resolve()}/", "") for warning in config_warnings(load_config(path))]


@pytest.mark.invariant("CONFIG-034")
def test_a_soft_ce_that_channel_a_weighs_by_a_default_is_named(tmp_path):
    (warning,) = coord_warnings(tmp_path, {"config": {"soft_ce_weight": 1.0}})
    place, _, text = warning.partition(": ")
    assert place.startswith("run.yaml:")
    assert text == (
        "stage2_ab.pipeline.objective[1].config.soft_ce_weight: is 1.0 in Channel B alone: Channel A takes "
        "self_context_soft_ce_weight, which is 0.05 unless it is written; write self_context_soft_ce_weight: 1.0 for "
        "the same in both, or 0.05 to keep it"
    )


@pytest.mark.invariant("CONFIG-034")
@pytest.mark.parametrize(
    ("entry", "b_ratio"),
    [
        ({"config": {"soft_ce_weight": 1.0, "self_context_soft_ce_weight": 1.0}}, 0.5),
        ({"config": {"soft_ce_weight": 1.0, "self_context_soft_ce_weight": 0.05}}, 0.5),
        ({"config": {"soft_ce_weight": 0.05}}, 0.5),
        ({"config": {"soft_ce_weight": 0.0}}, 0.5),
        ({"config": {"w1_weight": 1.0}}, 0.5),
        ({}, 0.5),
        ({"config": {"soft_ce_weight": 1.0}}, 1.0),
        ({"config": {"soft_ce_weight": 1.0}, "channels": ["B"]}, 0.5),
        ({"config": {"soft_ce_weight": 1.0}, "enabled": False}, 0.5),
        ({"config": {"soft_ce_weight": 1.0}, "weight": 0.0}, 0.5),
    ],
)
def test_a_soft_ce_that_is_written_or_not_read_in_channel_a_is_not_named(tmp_path, entry, b_ratio):
    assert coord_warnings(tmp_path, entry, b_ratio) == []


def test_no_shipped_configuration_is_warned_about():
    files = [file for file in sorted(Path("configs").rglob("*.yaml")) if not file.stem.endswith("base")]
    assert files
    assert {str(file): config_warnings(load_config(file)) for file in files} == {str(file): () for file in files}


def test_check_config_warns_on_stderr_and_lets_the_file_pass(tmp_path, capsys):
    path = write(tmp_path, with_values(ALIGNED, CHEAP))
    assert check_config.main([str(path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{path}: OK ")
    (line,) = err.splitlines()
    assert line == f"warning: {config_warnings(load_config(path))[0]}"


@pytest.mark.parametrize("extra", [[], ["--dry-run"]], ids=["run", "dry"])
def test_training_warns_before_it_does_anything_else(tmp_path, capsys, extra):
    path = write(tmp_path, with_values(ALIGNED, CHEAP))
    assert train.main(["--config", str(path), *extra]) == 1
    warned, refused = capsys.readouterr().err.splitlines()[:2]
    assert warned == f"warning: {config_warnings(load_config(path))[0]}"
    assert refused.startswith("error: ")
