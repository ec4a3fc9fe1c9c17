"""contracts/losses/ against the runtime: names, configs, terms, and the knobs that other sections point at."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from coordexp.losses.defaults import FLAT_KNOBS
from coordexp.losses.masks import Provenance
from coordexp.losses.registry import (
    COMPONENTS,
    DIAGNOSTIC_MODULES,
    OBJECTIVE_MODULES,
    TERM_COUNTS,
    logged_components,
    registered_modules,
    term_counts,
)
from coordexp.losses.specs.types import Component, Count, MaskWeights, Term
from coordexp.spec import ContractFileError, contracts_root, read_schema, read_yaml

ROOT = Path(__file__).resolve().parents[2]
MODULES = OBJECTIVE_MODULES | DIAGNOSTIC_MODULES


@pytest.mark.invariant("LOSS-026")
def test_registry_contracts_and_config_schema_name_the_same_modules() -> None:
    """A file that no schema declares is a module that nobody can write into a pipeline."""
    for kind, table in (("objective", OBJECTIVE_MODULES), ("diagnostic", DIAGNOSTIC_MODULES)):
        assert read_schema(f"config/pipeline.{kind}")["properties"]["name"]["enum"] == list(table)
    for folder in ("specs", "modules"):
        files = {path.stem for path in (ROOT / "coordexp" / "losses" / folder).glob("*.py")}
        assert files - {"__init__", "types"} == set(MODULES)
    for keyword, table in (("x-components", OBJECTIVE_MODULES), ("x-gauges", DIAGNOSTIC_MODULES)):
        paths = (contracts_root() / "losses").glob("*.schema.json")
        ids = {path.name.removesuffix(".schema.json") for path in paths}
        assert {name for name in ids if keyword in read_schema(f"losses/{name}")} == set(table)


@pytest.mark.invariant("LOSS-026")
@pytest.mark.parametrize("name", list(MODULES))
def test_module_config_has_the_keys_and_defaults_of_its_schema(name: str) -> None:
    properties = read_schema(f"losses/{name}").get("properties", {})
    fields = {field.name: field.default for field in dataclasses.fields(MODULES[name].config)}
    assert fields == {key: value["default"] for key, value in properties.items()}
    assert list(fields) == list(properties)


@pytest.mark.invariant("LOSS-026")
@pytest.mark.parametrize("name", list(OBJECTIVE_MODULES))
def test_a_module_registers_the_terms_of_its_contract(name: str) -> None:
    """Names, the key that weighs each term, and what its sum is divided by."""
    promised, spec = read_schema(f"losses/{name}")["x-components"], OBJECTIVE_MODULES[name]
    assert list(promised) == [component.name for component in spec.components]
    keys = {field.name for field in dataclasses.fields(spec.config)}
    for component in spec.components:
        contract = promised[component.name]
        parts = contract.get("terms", {})
        assert list(parts) == [term.name for term in component.terms]
        assert (component.count is None) == bool(parts)
        assert component.count is None or contract["mean_over"] == component.count
        for term in component.terms:
            weights = [text.split()[0] for text in parts[term.name]["weight"].split("; ")]
            assert (weights[0], parts[term.name]["mean_over"]) == (term.weight, term.count)
            assert set(weights) <= keys


@pytest.mark.invariant("LOSS-026")
def test_the_mask_table_is_filled_by_registered_keys() -> None:
    table = read_yaml(contracts_root() / "losses" / "mask_table.yaml")
    rows = [row for context in table["contexts"].values() for row in context.values()]
    named = {cell for row in rows for cell in row.values() if isinstance(cell, str)} | {table["struct_multiplier"]}
    registered = [key for spec in OBJECTIVE_MODULES.values() for key in spec.mask_keys]
    assert sorted(registered) == sorted(named) == sorted(field.name for field in dataclasses.fields(MaskWeights))


@pytest.mark.invariant("LOSS-026")
def test_gauges_are_told_apart_by_the_forwards_there_are() -> None:
    shared = read_yaml(contracts_root() / "losses" / "terms.yaml")
    assert list(shared["provenances"]) == list(Provenance)


@pytest.mark.invariant("LOSS-026")
def test_a_name_without_a_registration_and_a_name_given_twice_are_refused() -> None:
    with pytest.raises(ContractFileError, match=r"declares the module 'bbox_gio', but there is no .*bbox_gio; write"):
        registered_modules(["token_ce", "bbox_gio"])
    with pytest.raises(ContractFileError, match=r"coord_reg: component 'coord_token_ce' is another module's"):
        logged_components([OBJECTIVE_MODULES["coord_reg"]] * 2)
    other = Component("geo2", terms=(Term("ciou", "ciou_weight", Count.BOXES),))
    with pytest.raises(ContractFileError, match="two terms are called 'ciou'"):
        term_counts([*COMPONENTS.values(), other])
    assert "ciou" in TERM_COUNTS


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
            assert key in {field.name for field in dataclasses.fields(MODULES[module].config)}


@pytest.mark.invariant("LOSS-026")
def test_manifests_resolve_without_torch() -> None:
    code = "import sys, coordexp.losses.defaults; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
