"""`check` and `violations`: what is refused, where, and with which help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coordexp.spec import (
    ContractFileError,
    ContractViolation,
    check,
    contracts_root,
    read_schema,
    schema_ids,
    schema_path,
    violations,
)

SHAPE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "coordexp:shape",
    "description": "A shape of the tests of the spec package.",
    "type": "object",
    "required": ["kind"],
    "additionalProperties": False,
    "x-removed": {"colour": "write kind.colour instead"},
    "properties": {
        "kind": {"enum": ["circle", "square"]},
        "sizes": {"type": "array", "items": {"type": "number", "minimum": 0}, "maxItems": 2},
        "inner": {"$ref": "coordexp:shape"},
        "fill": {
            "oneOf": [
                {
                    "type": "object",
                    "required": ["name", "alpha"],
                    "additionalProperties": False,
                    "properties": {"name": {"const": "flat"}, "alpha": {"type": "number"}},
                },
                {
                    "type": "object",
                    "required": ["name", "step"],
                    "additionalProperties": False,
                    "properties": {"name": {"const": "striped"}, "step": {"type": "integer"}},
                },
            ]
        },
        "a/b~c": {"type": "integer"},
    },
}


@pytest.fixture
def contracts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "contracts"
    (root / "meta").mkdir(parents=True)
    (root / "shape.schema.json").write_text(json.dumps(SHAPE))
    monkeypatch.setenv("COORDEXP_CONTRACTS_ROOT", str(root))
    return root


@pytest.mark.invariant("SPEC-001")
@pytest.mark.usefixtures("contracts")
def test_a_fitting_value_comes_back_itself() -> None:
    value = {"kind": "circle", "sizes": [1, 2.5], "inner": {"kind": "square"}}
    assert check("shape", value) is value
    assert check("coordexp:shape", value) is value
    assert violations("shape", value) == []


@pytest.mark.invariant("SPEC-001")
@pytest.mark.usefixtures("contracts")
@pytest.mark.parametrize(
    ("value", "pointer", "dotted", "words"),
    [
        ([], "", "", "[] is not a mapping"),
        ({}, "/kind", "kind", "required key 'kind' is missing"),
        ({"kind": "cirle"}, "/kind", "kind", "'cirle' is not allowed; allowed: 'circle', 'square'; nearest: 'circle'"),
        ({"kind": "circle", "sizes": [1, -2]}, "/sizes/1", "sizes[1]", "-2 is below 0"),
        ({"kind": "circle", "sizes": [1, 2, 3]}, "/sizes", "sizes", "[1, 2, 3] has more than 2 items"),
        ({"kind": "circle", "sizes": "1"}, "/sizes", "sizes", "'1' is not a list"),
        ({"kind": "circle", "inner": {"kind": 3}}, "/inner/kind", "inner.kind", "3 is not allowed"),
        ({"kind": "circle", "a/b~c": "x"}, "/a~1b~0c", "a/b~c", "'x' is not an integer"),
        ({"kind": "circle", "fill": {"name": "striped", "step": 0.5}}, "/fill/step", "fill.step", "is not an integer"),
        ({"kind": "circle", "fill": {"name": "striped"}}, "/fill/step", "fill.step", "required key 'step' is missing"),
    ],
)
def test_a_breach_is_refused_with_its_place(value: Any, pointer: str, dotted: str, words: str) -> None:
    with pytest.raises(ContractViolation) as caught:
        check("shape", value)
    error = caught.value
    assert (error.contract_id, error.pointer, error.violation.dotted) == ("coordexp:shape", pointer, dotted)
    assert words in error.message
    assert str(error) == f"coordexp:shape at {pointer or '(the whole)'}: {error.message}"
    assert error.violation in violations("shape", value)


@pytest.mark.invariant("SPEC-002")
@pytest.mark.usefixtures("contracts")
def test_each_unknown_key_is_named_with_what_is_allowed_and_nearest() -> None:
    found = violations("shape", {"kind": "circle", "size": 1, "inner": {"kind": "circle", "knid": 1, "colour": "red"}})
    assert [(problem.pointer, problem.nearest, problem.guidance) for problem in found] == [
        ("/size", "sizes", None),
        ("/inner/knid", "kind", None),
        ("/inner/colour", None, "write kind.colour instead"),
    ]
    assert found[0].allowed == ("kind", "sizes", "inner", "fill", "a/b~c")
    assert found[0].message == "unknown key 'size'; allowed: kind, sizes, inner, fill, a/b~c; nearest: 'sizes'"
    assert found[2].message == "'colour' was removed: write kind.colour instead"


@pytest.mark.invariant("SPEC-001")
@pytest.mark.usefixtures("contracts")
def test_an_unknown_contract_is_refused_with_the_nearest() -> None:
    with pytest.raises(ContractFileError, match="no contract 'coordexp:shapes'; nearest: 'coordexp:shape'"):
        check("shapes", {})


@pytest.mark.invariant("SPEC-001")
@pytest.mark.usefixtures("contracts")
def test_messages_stay_short_for_long_values() -> None:
    with pytest.raises(ContractViolation) as caught:
        check("shape", {"kind": "circle", "sizes": "1" * 5000})
    assert len(str(caught.value)) < 200


@pytest.mark.invariant("SPEC-005")
def test_two_schemas_with_one_id_are_refused(contracts: Path) -> None:
    (contracts / "meta" / "again.schema.json").write_text(json.dumps(SHAPE))
    with pytest.raises(ContractFileError, match="'coordexp:shape' is already that of"):
        schema_ids()


@pytest.mark.invariant("SPEC-005")
@pytest.mark.parametrize("schema", [{"description": "none"}, {"$id": "https://example.org/shape"}, []])
def test_a_schema_without_a_name_is_refused(contracts: Path, schema: Any) -> None:
    (contracts / "other.schema.json").write_text(json.dumps(schema))
    with pytest.raises(ContractFileError, match=r"other.schema.json: \$id must be 'coordexp:<name>'"):
        schema_ids()


@pytest.mark.invariant("SPEC-005")
def test_contracts_without_schemas_are_refused(contracts: Path) -> None:
    (contracts / "shape.schema.json").unlink()
    with pytest.raises(ContractFileError, match="holds no"):
        schema_ids()


def test_schemas_are_found_by_id(contracts: Path) -> None:
    assert schema_ids() == ("coordexp:shape",)
    assert schema_path("shape") == contracts_root() / "shape.schema.json"
    assert read_schema("shape")["description"] == SHAPE["description"]
