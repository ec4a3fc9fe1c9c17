"""The contract files themselves: closed and described schemas, declared invariants with tests, nothing empty."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from audit.findings import load_findings
from audit.inventory import read_marked_tests
from audit.requirements import load_remarks
from audit.symbols import UnknownSymbolError, find_symbol
from coordexp.spec import (
    check,
    contracts_root,
    load_invariants,
    load_requirements,
    read_json,
    read_schema,
    read_yaml,
    schema_ids,
)
from coordexp.spec.closedness import open_places, undescribed

ROOT = Path(__file__).resolve().parents[2]
INVARIANTS = load_invariants()


@pytest.mark.invariant("SPEC-005")
@pytest.mark.parametrize("schema_id", schema_ids())
def test_a_contract_schema_is_valid_closed_and_described(schema_id: str) -> None:
    schema = dict(read_schema(schema_id))
    Draft202012Validator.check_schema(schema)
    check("contract-schema", schema)
    assert list(open_places(schema)) == []
    assert list(undescribed(schema)) == []


@pytest.mark.invariant("SPEC-004")
def test_every_contract_file_is_read_without_repeated_keys() -> None:
    yamls = sorted(contracts_root().rglob("*.y*ml"))
    jsons = sorted(contracts_root().rglob("*.json"))
    assert yamls
    assert jsons
    for path in yamls:
        read_yaml(path)
    for path in jsons:
        read_json(path)


@pytest.mark.parametrize("folder", ["contracts", "fixtures", "tests", "configs", "coordexp", "audit"])
def test_no_folder_is_empty(folder: str) -> None:
    """A folder that holds nothing but the text of an `__init__.py` stands for something that is not there."""
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    filled = {parent for path in files if path.name != "__init__.py" for parent in path.parents}
    assert {path.parent for path in files} - filled == set()


@pytest.mark.invariant("SPEC-008")
def test_every_marker_names_an_invariant_and_every_invariant_has_a_test() -> None:
    declared = {invariant.id for invariant in INVARIANTS}
    marked = read_marked_tests(ROOT)
    named = {key: test.node for test in marked for key in test.invariants}
    assert {key: node for key, node in named.items() if key not in declared} == {}
    # Markers that case files compute are counted by the audit, from an executed run.
    if not any(test.computed for test in marked):
        assert declared - set(named) == set()


@pytest.mark.invariant("SPEC-008")
@pytest.mark.parametrize("invariant", INVARIANTS, ids=lambda invariant: invariant.id)
def test_evidence_exists_and_mutants_can_be_applied(invariant: object) -> None:
    from audit.mutation import InvalidMutantError, mutate
    from coordexp.spec import Invariant

    assert isinstance(invariant, Invariant)
    problems = []
    for symbol in invariant.evidence:
        try:
            find_symbol(ROOT, symbol)
        except UnknownSymbolError as error:
            problems.append(str(error))
    for number, mutant in enumerate(invariant.mutants, start=1):
        try:
            mutate(ROOT, mutant)
        except InvalidMutantError as error:
            problems.append(f"mutant {number}: {error}")
    assert problems == []


@pytest.mark.invariant("SPEC-013")
def test_the_requirements_are_all_there_and_every_named_one_exists() -> None:
    known = {requirement.id for requirement in load_requirements()}
    assert len(known) == 191
    counts = {prefix: sum(key.startswith(prefix + "-") for key in known) for prefix in ("AUDIT", "REG", "CFG", "REP")}
    assert min(counts.values()) > 0
    named = {key for invariant in INVARIANTS for key in invariant.requirements} | set(load_remarks())
    named |= {key for finding in load_findings(ROOT) for key in finding.requirements}
    assert named - known == set()


@pytest.mark.invariant("SPEC-013")
def test_every_finding_has_evidence_that_exists() -> None:
    assert [text for finding in load_findings(ROOT) for text in finding.missing] == []
