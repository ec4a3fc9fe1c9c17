"""contracts/losses/ against the runtime: names, configs, terms, and the knobs that other sections point at."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from coordexp.losses import specs
from coordexp.losses.defaults import FLAT_KNOBS
from coordexp.losses.registry import DIAGNOSTIC_MODULES, OBJECTIVE_MODULES
from coordexp.spec import check, contracts_root, read_schema, read_yaml

ROOT = Path(__file__).resolve().parents[2]
TERMS = check("losses/terms", read_yaml(contracts_root() / "losses" / "terms.yaml"))
CONFIGS = specs.OBJECTIVE_CONFIGS | specs.DIAGNOSTIC_CONFIGS


@pytest.mark.invariant("LOSS-026")
def test_registry_contract_and_config_schema_name_the_same_modules() -> None:
    for section, kind, table, configs in (
        ("objective", "objective", OBJECTIVE_MODULES, specs.OBJECTIVE_CONFIGS),
        ("diagnostics", "diagnostic", DIAGNOSTIC_MODULES, specs.DIAGNOSTIC_CONFIGS),
    ):
        allowed = read_schema(f"config/pipeline.{kind}")["properties"]["name"]["enum"]
        assert list(TERMS[section]) == list(table) == list(configs) == allowed


@pytest.mark.invariant("LOSS-026")
@pytest.mark.parametrize("name", list(CONFIGS))
def test_module_config_has_the_keys_and_defaults_of_its_schema(name: str) -> None:
    properties = read_schema(f"losses/{name}").get("properties", {})
    fields = {field.name: field.default for field in dataclasses.fields(CONFIGS[name])}
    assert fields == {key: value["default"] for key, value in properties.items()}
    assert list(fields) == list(properties)


@pytest.mark.invariant("LOSS-026")
def test_terms_and_components_are_the_contract_s() -> None:
    components = TERMS["components"]
    assert list(components) == list(specs.COMPONENTS)
    assert tuple(components["coord_reg"]["terms"]) == specs.COORD_REG_TERMS
    assert tuple(components["geo"]["terms"]) == specs.GEO_TERMS
    assert {component["module"] for component in components.values()} <= set(TERMS["objective"])
    for component in components.values():
        keys = {field.name for field in dataclasses.fields(CONFIGS[component["module"]])}
        weights = [text for term in component.get("terms", {}).values() for text in term["weight"].split("; ")]
        assert {text.split()[0] for text in weights} <= keys


@pytest.mark.invariant("LOSS-026")
def test_every_moved_knob_names_the_key_that_takes_its_place() -> None:
    """The config loader refuses flat knobs with the text of x-moves-to; the resolution uses FLAT_KNOBS."""
    moves = {
        prefix + key: value["x-moves-to"]
        for prefix, schema in (("", "config/stage2_ab"), ("channel_b.", "config/stage2_ab.channel_b"))
        for key, value in read_schema(schema)["properties"].items()
        if "x-moves-to" in value
    }
    assert set(moves) == set(FLAT_KNOBS)
    for knob, targets in FLAT_KNOBS.items():
        assert {module for module, _ in targets} == {moves[knob].split()[0]}
        for module, key in targets:
            assert key in moves[knob].split()
            assert key in {field.name for field in dataclasses.fields(CONFIGS[module])}


@pytest.mark.invariant("LOSS-026")
def test_manifests_resolve_without_torch() -> None:
    code = "import sys, coordexp.losses.defaults; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
