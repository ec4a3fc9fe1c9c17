"""What the objective emits, what contracts/losses/terms.yaml says it does, the metric table and the pages: one list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordexp.losses.manifest import Manifest, ModuleEntry
from coordexp.losses.masks import Provenance
from coordexp.losses.objective import build_objective
from coordexp.losses.registry import DIAGNOSTIC_MODULES, OBJECTIVE_MODULES
from coordexp.losses.specs import DIAGNOSTIC_CONFIGS, OBJECTIVE_CONFIGS, CoordRegConfig
from coordexp.metrics.document import FOLDER, PAGES, TABLES, render_page
from coordexp.metrics.table import read_metric_table
from coordexp.spec import check, contracts_root, load_invariants, read_yaml
from coordexp.training.metrics import WindowMetrics
from tests.unit.losses.synthetic import run_on

ROOT = Path(__file__).resolve().parents[2]
TERMS = check("losses/terms", read_yaml(contracts_root() / "losses" / "terms.yaml"))
# Families of keys that nothing but the objective emits.
OWNED = ("loss/", *(f"{module}/" for module in DIAGNOSTIC_MODULES))
EVERY_TERM = CoordRegConfig(*[1.0] * 12, 2.0)


def promised() -> dict[str, tuple[str, str]]:
    """Key → reduction and unit, for every key that terms.yaml names."""
    found: dict[str, tuple[str, str]] = {}
    for name, component in TERMS["components"].items():
        found[f"loss/{name}"] = ("ratio", component["unit"])
        for term, part in component.get("terms", {}).items():
            found[f"loss/{name}/{term}"] = ("ratio", part["unit"])
    for module, diagnostic in TERMS["diagnostics"].items():
        for provenance in Provenance:
            for key, row in diagnostic["keys"].items():
                found[f"{module}/{provenance}/{key}"] = (row["reduction"], row["unit"])
    return found


def everything_on() -> Manifest:
    """Every registered module, and every term of `coord_reg`, at a weight above 0."""
    configs = {name: OBJECTIVE_CONFIGS[name]() for name in OBJECTIVE_MODULES} | {"coord_reg": EVERY_TERM}
    objective = [ModuleEntry(name, config) for name, config in configs.items()]
    diagnostics = [ModuleEntry(name, DIAGNOSTIC_CONFIGS[name]()) for name in DIAGNOSTIC_MODULES]
    return Manifest(tuple(objective), tuple(diagnostics))


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
    assert declared == promised()
    assert all(table[key].modes == ("train", "eval") for key in declared)


@pytest.mark.invariant("LOSS-029")
def test_a_logging_window_takes_every_key_that_is_emitted() -> None:
    keys, window = emitted()
    import torch

    reduced = window.reduce(torch.device("cpu"))
    assert set(reduced) == keys


@pytest.mark.invariant("LOSS-029")
def test_the_contract_s_invariants_exist() -> None:
    def named(node: Any) -> set[str]:
        if not isinstance(node, dict):
            return set()
        return set(node.get("invariants", ())).union(*map(named, node.values()))

    assert named(TERMS) <= {invariant.id for invariant in load_invariants()}


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
