"""What the objective emits, what the contracts of its modules say it does, the metric table and the pages: one list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordexp.losses.masks import Provenance
from coordexp.losses.objective import build_objective
from coordexp.losses.registry import DIAGNOSTIC_MODULES, OBJECTIVE_MODULES
from coordexp.metrics.document import FOLDER, PAGES, TABLES, render_page
from coordexp.metrics.table import read_metric_table
from coordexp.spec import load_invariants, read_schema
from coordexp.training.metrics import WindowMetrics
from tests.unit.losses.synthetic import everything_on, run_on

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = {name: read_schema(f"losses/{name}") for name in (*OBJECTIVE_MODULES, *DIAGNOSTIC_MODULES)}
# Families of keys that nothing but the objective emits.
OWNED = ("loss/", *(f"{module}/" for module in DIAGNOSTIC_MODULES))


def promised() -> dict[str, tuple[str, str]]:
    """Key → reduction and unit, for every key that the modules' contracts name."""
    found: dict[str, tuple[str, str]] = {}
    for module in OBJECTIVE_MODULES:
        for name, component in CONTRACTS[module]["x-components"].items():
            found[f"loss/{name}"] = ("ratio", component["unit"])
            for term, part in component.get("terms", {}).items():
                found[f"loss/{name}/{term}"] = ("ratio", part["unit"])
    for module in DIAGNOSTIC_MODULES:
        for provenance in Provenance:
            for key, row in CONTRACTS[module]["x-gauges"].items():
                found[f"{module}/{provenance}/{key}"] = (row["reduction"], row["unit"])
    return found


def of_one_context() -> dict[str, tuple[str, str]]:
    """The keys under which a context of stage 2 has each component by itself."""
    whole = {key.removeprefix("loss/"): row for key, row in promised().items() if key.startswith("loss/")}
    return {f"loss/{context}/{key}": whole[key] for context, keys in computed_in().items() for key in keys}


def computed_in() -> dict[str, set[str]]:
    """Components and terms by the context of stage 2 that computes them, when everything is switched on."""
    objective = build_objective(everything_on())
    found = {context: set(run_on(objective, Provenance(context)).sums.metrics()) for context in ("A1", "A2", "B")}
    return {context: {key.removeprefix("loss/") for key in keys} for context, keys in found.items()}


def not_of_ground_truth() -> set[str]:
    """What no evaluation holds, because its loss is on ground truth."""
    told = {key for key in promised() if key.split("/")[1] in ("A1", "A2", "B")}
    return told | {"loss/coord_reg/coord_ce"}


def emitted() -> tuple[set[str], WindowMetrics]:
    """Keys of one forward of each provenance, and a logging window that has taken them all in."""
    objective, window, keys = build_objective(everything_on()), WindowMetrics(), set()
    for provenance in Provenance:
        output = run_on(objective, provenance)
        window.add(output)
        keys |= set(output.metrics())
    return keys, window


@pytest.mark.invariant("LOSS-029")
@pytest.mark.invariant("LOSS-022")
def test_the_objective_emits_exactly_the_keys_of_its_contract() -> None:
    assert emitted()[0] == set(promised())


@pytest.mark.invariant("LOSS-029")
def test_every_key_has_its_reduction_and_unit_in_the_metric_table() -> None:
    table = read_metric_table()
    declared = {key: (row.reduction, row.unit) for key, row in table.items() if key.startswith(OWNED)}
    assert declared == promised() | of_one_context()
    assert {key for key in promised() if table[key].modes != ("train", "eval")} == not_of_ground_truth()
    assert all(table[key].modes == ("train",) for key in of_one_context()), "validations have one context"


@pytest.mark.invariant("LOSS-029")
def test_a_logging_window_takes_every_key_that_is_emitted() -> None:
    keys, window = emitted()
    import torch

    reduced = window.reduce(torch.device("cpu"))
    assert set(reduced) - of_one_context().keys() == keys
    found = {context: {key for key in reduced if key.startswith(f"loss/{context}/")} for context in ("A1", "A2", "B")}
    assert {key.split("/")[2] for key in found["A1"]} == {"struct_ce", "desc_ce", "coord_token_ce"}
    assert {key.split("/")[2] for key in found["A2"]} == {"struct_ce", "geo", "coord_reg"}
    assert {key.split("/")[2] for key in found["B"]} == {"struct_ce", "desc_ce", "geo", "coord_reg"}


@pytest.mark.invariant("LOSS-029")
def test_the_contract_s_invariants_exist() -> None:
    def named(node: Any) -> set[str]:
        if not isinstance(node, dict):
            return set()
        return set(node.get("invariants", ())).union(*map(named, node.values()))

    found = {name: named(contract) for name, contract in CONTRACTS.items()}
    assert all(found.values())
    assert set().union(*found.values()) <= {invariant.id for invariant in load_invariants()}


@pytest.mark.invariant("LOSS-029")
@pytest.mark.parametrize("name", PAGES)
def test_the_generated_tables_are_current(name: str) -> None:
    text = (ROOT / FOLDER / name).read_text(encoding="utf-8")
    assert text == render_page(text), "run python -m coordexp.metrics.document"


@pytest.mark.invariant("LOSS-029")
def test_the_page_of_keys_holds_every_table_and_every_key() -> None:
    text = (ROOT / FOLDER / "METRICS_LOSSES.md").read_text(encoding="utf-8")
    coordinate = (ROOT / FOLDER / "COORD_OBJECTIVE_AND_ADAPTER.md").read_text(encoding="utf-8")
    assert {name for name in TABLES if f"<!-- generated: {name} -->" in text + coordinate} == set(TABLES)
    assert [key for key in read_metric_table() if f"`{key}`" not in text] == []


@pytest.mark.invariant("LOSS-029")
def test_a_region_is_rewritten_and_an_unknown_one_refused() -> None:
    page = "before\n<!-- generated: masks -->\nstale\n<!-- end -->\nafter\n"
    assert "stale" not in render_page(page) and "| rollout | fp | 0 | 0 | 0 |" in render_page(page)
    assert render_page(page).startswith("before\n") and render_page(page).endswith("<!-- end -->\nafter\n")
    with pytest.raises(ValueError, match="no generated table is called 'maks'; there are definitions, "):
        render_page(page.replace("masks", "maks"))
