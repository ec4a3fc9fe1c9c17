"""Invariants, requirements, cases and grammars are read strictly; paths stay inside; keys are never repeated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from coordexp.spec import (
    Case,
    ContractFileError,
    contract_path,
    contracts_root,
    load_cases,
    load_invariants,
    load_requirements,
    read_grammar,
    read_json,
    read_yaml,
)
from coordexp.spec.closedness import open_places, undescribed

PATHS = load_cases(Path(__file__).resolve().parents[3] / "fixtures" / "spec" / "contract_paths.json")
ROW = """\
  - id: {id}
    title: "{title}"
    severity: {severity}
    statement: "A statement that is long enough."
    requirements: [AUDIT-1.1]
    evidence: ["coordexp.spec:check"]
    tier: cpu
    mutants: [{mutants}]
"""
MUTANT = '{file: a.py, find: "x", replace: "y", why: "a fault"}'


def row(name: str, title: str, severity: str = "P2", mutants: int = 0) -> str:
    return ROW.format(id=name, title=title, severity=severity, mutants=", ".join([MUTANT] * mutants))


@pytest.fixture
def contracts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "contracts"
    shutil.copytree(contracts_root() / "meta", root / "meta")
    for name in ("invariants", "requirements", "coordjson"):
        (root / name).mkdir()
    monkeypatch.setenv("COORDEXP_CONTRACTS_ROOT", str(root))
    return root


def declare(root: Path, area: str, *rows: str) -> None:
    (root / "invariants" / f"{area}.yaml").write_text(f"area: {area}\ninvariants:\n" + "".join(rows))


@pytest.mark.invariant("SPEC-006")
def test_invariants_are_read_by_id_with_their_lines(contracts: Path) -> None:
    declare(contracts, "two", row("TWO-001", "Twos come in pairs", "P0", 2))
    declare(contracts, "one", row("ONE-002", "One stands alone"), row("ONE-001", "One is the first"))
    found = load_invariants()
    assert [(item.id, item.area, item.line) for item in found] == [
        ("ONE-001", "one", 11),
        ("ONE-002", "one", 3),
        ("TWO-001", "two", 3),
    ]
    assert [mutant.why for mutant in found[2].mutants] == ["a fault", "a fault"]


@pytest.mark.invariant("SPEC-006")
@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (row("ONE-001", "One is the first"), row("ONE-001", "One is again"), "id ONE-001 is already in"),
        (row("ONE-001", "One is the first"), row("TWO-001", "One is the first"), "title is already that of ONE-001"),
        (row("ONE-001", "One is the first"), row("TWO-1", "Two is the next"), "invariants[0].id"),
        (row("ONE-001", "One is the first"), row("TWO-001", "Two should be next"), "invariants[0].title"),
        (row("ONE-001", "One is the first"), row("TWO-001", "T" * 70), "invariants[0].title"),
        (row("ONE-001", "One is the first"), row("TWO-001", "Two is next", "P0", 1), "has fewer than 2 items"),
        (row("ONE-001", "One is the first"), row("TWO-001", "Two is next", "P1"), "has fewer than 1 items"),
        (row("ONE-001", "One is the first"), row("TWO-001", "Two is next", "P3"), "allowed: 'P0', 'P1', 'P2'"),
        (row("ONE-001", "One is the first"), row("TWO-001", "Two is next").replace("tier", "teir"), "nearest: 'tier'"),
        (row("ONE-001", "One is the first"), row("TWO-001", "Two is next").replace(":check", ""), "evidence[0]"),
    ],
)
def test_a_bad_invariant_is_refused(contracts: Path, first: str, second: str, words: str) -> None:
    declare(contracts, "one", first)
    declare(contracts, "two", second)
    with pytest.raises(ContractFileError) as caught:
        load_invariants()
    assert words in str(caught.value)
    assert "two.yaml" in str(caught.value)


@pytest.mark.invariant("SPEC-006")
def test_an_area_is_named_as_its_file(contracts: Path) -> None:
    declare(contracts, "one", row("ONE-001", "One is the first"))
    (contracts / "invariants" / "one.yaml").rename(contracts / "invariants" / "other.yaml")
    with pytest.raises(ContractFileError, match="area is 'one', the file's name says 'other'"):
        load_invariants()


@pytest.mark.invariant("SPEC-006")
@pytest.mark.usefixtures("contracts")
def test_no_invariant_file_at_all_is_an_error() -> None:
    with pytest.raises(ContractFileError, match="holds no invariant files"):
        load_invariants()


@pytest.mark.invariant("SPEC-013")
def test_a_repeated_requirement_is_refused(contracts: Path) -> None:
    path = contracts / "requirements" / "requirements.yaml"
    path.write_text("- {id: AUDIT-1.1, section: One, text: One.}\n- {id: AUDIT-1.1, section: One, text: Two.}\n")
    with pytest.raises(ContractFileError, match=r"requirement AUDIT-1\.1 is there twice"):
        load_requirements()


@pytest.mark.invariant("SPEC-003")
@pytest.mark.parametrize("case", PATHS.cases, ids=lambda case: case.description)
def test_a_path_out_of_the_contracts_is_refused(contracts: Path, case: Case) -> None:
    (contracts.parent / "outside.txt").write_text("outside\n")
    (contracts / "linked.txt").symlink_to(contracts.parent / "outside.txt")
    if case.valid:
        assert contract_path(case.input) == contracts / "meta" / "case-file.schema.json"
        return
    with pytest.raises(ContractFileError, match="leaves the contracts folder"):
        contract_path(case.input)


@pytest.mark.invariant("SPEC-003")
def test_a_grammar_is_read_by_name_or_path(contracts: Path) -> None:
    (contracts / "coordjson" / "answer.lark").write_text("start: WORD\n")
    assert read_grammar("answer") == read_grammar("coordjson/answer.lark") == "start: WORD\n"
    with pytest.raises(ContractFileError, match="no such contract file"):
        read_grammar("question")


@pytest.mark.invariant("SPEC-003")
def test_a_root_without_contracts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDEXP_CONTRACTS_ROOT", str(tmp_path))
    with pytest.raises(ContractFileError, match="no contract files"):
        contracts_root()


@pytest.mark.invariant("SPEC-004")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", ":3: duplicate key 'a'"),
        ("outer:\n  - {x: 1, x: 1}\n", ":2: duplicate key 'x'"),
        ("a: [1\n", ":2: "),
    ],
)
def test_a_repeated_yaml_key_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(ContractFileError) as caught:
        read_yaml(path)
    assert str(path) + words in str(caught.value)


@pytest.mark.invariant("SPEC-004")
@pytest.mark.parametrize(
    ("text", "words"), [('{"a": 1, "b": {"c": 1, "c": 2}}', "duplicate key 'c'"), ('{"a": 1,\n}', ":2: ")]
)
def test_a_repeated_json_key_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ContractFileError) as caught:
        read_json(path)
    assert words in str(caught.value)


def write_cases(path: Path, *cases: dict[str, object]) -> Path:
    path.write_text(json.dumps({"description": "Some cases", "invariants": ["ONE-001"], "cases": list(cases)}))
    return path


@pytest.mark.invariant("SPEC-007")
def test_cases_are_read_with_both_kinds_of_outcome(tmp_path: Path) -> None:
    first = {"description": "one is accepted", "input": 1, "valid": True}
    second = {"description": "two gives nothing", "input": 2, "expect": None, "comment": "null is an outcome"}
    cases = load_cases(write_cases(tmp_path / "cases.json", first, second)).cases
    assert [(case.valid, case.has_expect, case.expect) for case in cases] == [(True, False, None), (None, True, None)]


@pytest.mark.invariant("SPEC-007")
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"description": "no outcome", "input": 1}, "valid"),
        ({"description": "two outcomes", "input": 1, "valid": True, "expect": 1}, "cases[0]"),
        ({"description": "one should pass", "input": 1, "valid": True}, "description"),
        ({"description": "unknown key", "input": 1, "valid": True, "inputs": 1}, "nearest: 'input'"),
        ({"description": "a text outcome", "input": 1, "valid": "yes"}, "true or false"),
    ],
)
def test_a_bad_case_is_refused(tmp_path: Path, case: dict[str, object], words: str) -> None:
    with pytest.raises(ContractFileError) as caught:
        load_cases(write_cases(tmp_path / "cases.json", case))
    assert words in str(caught.value)


@pytest.mark.invariant("SPEC-007")
def test_two_cases_with_one_description_are_refused(tmp_path: Path) -> None:
    case = {"description": "one is accepted", "input": 1, "valid": True}
    with pytest.raises(ContractFileError, match="two cases are described 'one is accepted'"):
        load_cases(write_cases(tmp_path / "cases.json", case, case))


@pytest.mark.invariant("SPEC-005")
@pytest.mark.parametrize(
    ("schema", "places"),
    [
        ({"type": "object", "additionalProperties": False}, []),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, []),
        ({"type": "object", "unevaluatedProperties": False}, []),
        ({"type": "object", "x-open": "users write here"}, []),
        ({"type": "object"}, ["#"]),
        ({"type": ["object", "null"]}, ["#"]),
        ({"type": "object", "additionalProperties": True}, ["#"]),
        ({"type": "array", "items": {"type": "object"}}, ["#/items"]),
        ({"$defs": {"x": {"oneOf": [{"type": "object"}]}}}, ["#/$defs/x/oneOf/0"]),
        ({"properties": {"p": {"type": "object", "additionalProperties": {}}}}, ["#/properties/p"]),
        ({"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}}, []),
    ],
)
def test_open_objects_are_found_at_any_depth(schema: dict[str, object], places: list[str]) -> None:
    assert [place.split(":")[0] for place in open_places(schema)] == places


@pytest.mark.invariant("SPEC-005")
def test_properties_without_a_description_are_found() -> None:
    inner = {
        "type": "object",
        "properties": {"b": {"type": "integer"}, "c": {"$ref": "coordexp:x"}, "d": {"description": "A d."}},
    }
    outer = {"type": "object", "properties": {"a": {"type": "array", "items": inner}}}
    assert list(undescribed(outer)) == ["a", "b"]
    assert list(undescribed({"then": {"properties": {"a": {"minimum": 1}}}})) == []
