"""Rules, the loader's own fast reading of the schemas, against the JSON Schema library."""

from __future__ import annotations

import json

import pytest

from coordexp.config.rules import REQUIRED, Rule, build_rule
from coordexp.config.validate import find_faults
from coordexp.spec import ROOT_VARIABLE, ContractFileError, contracts_root

VALUES = {
    "a missing section": {"model": {"model": "m"}},
    "a list for a mapping": [],
    "null": None,
}


@pytest.mark.invariant("CONFIG-004")
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_what_is_no_configuration_at_all_has_faults(value):
    assert find_faults(build_rule(), value)


@pytest.mark.invariant("CONFIG-004")
@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "integer", "multipleOf": 2}, "coordexp:odd: the config loader knows no keyword 'multipleOf'"),
        ({"enum": [1]}, "coordexp:odd: a config value has a type"),
        (
            {"anyOf": [{"$ref": "coordexp:config/model"}, {"type": "string"}]},
            "coordexp:odd: anyOf holds a reference and null, nothing else",
        ),
        (
            {"type": "object", "properties": {"names": {"type": "array", "items": {"enum": [1]}}}},
            "coordexp:odd.names[]: a config value has a type",
        ),
    ],
)
def test_a_schema_that_rules_can_not_express_is_refused(own_contracts, schema, says):
    own_contracts(schema)
    with pytest.raises(ContractFileError) as caught:
        build_rule("coordexp:odd")
    assert str(caught.value) == says


@pytest.mark.invariant("CONFIG-004")
def test_what_a_schema_leaves_out_is_no_limit(own_contracts):
    own_contracts({"type": "object", "additionalProperties": False, "properties": {"names": {"type": "array"}}})
    names = Rule(("array",), frozenset({list}), description="", default=REQUIRED, moves_to=None)
    assert build_rule("coordexp:odd") == Rule(
        ("object",), frozenset({dict}), "x" * 20, {}, None, properties={"names": names}, schema_id="coordexp:odd"
    )


@pytest.mark.invariant("CONFIG-004")
def test_rules_are_those_of_the_contracts_in_force(own_contracts):
    shipped = build_rule("coordexp:config/model")
    own_contracts({"type": "integer"}, "coordexp:config/model")
    assert build_rule("coordexp:config/model").names == ("integer",)
    assert shipped.names == ("object",)


@pytest.fixture
def own_contracts(tmp_path, monkeypatch):
    """Writes a contracts folder with one schema besides those it may refer to, and puts it in force."""

    def write(schema, name="coordexp:odd"):
        (tmp_path / "meta").mkdir()
        if name == "coordexp:odd":
            shipped = contracts_root() / "config" / "model.schema.json"
            (tmp_path / shipped.name).write_text(shipped.read_text())
        (tmp_path / "odd.schema.json").write_text(json.dumps({"$id": name, "description": "x" * 20, **schema}))
        monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))

    return write
