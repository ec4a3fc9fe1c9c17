"""Rules, the loader's own fast reading of the schemas, against the JSON Schema library."""

from __future__ import annotations

import json

import pytest

from coordexp.config.rules import build_rule
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
        ({"type": "integer", "multipleOf": 2}, "knows no keyword 'multipleOf'"),
        ({"enum": [1]}, "a config value has a type"),
        ({"anyOf": [{"$ref": "coordexp:config/model"}, {"type": "string"}]}, "a reference and null, nothing else"),
    ],
)
def test_a_schema_that_rules_can_not_express_is_refused(tmp_path, monkeypatch, schema, says):
    (tmp_path / "meta").mkdir()
    for path in (contracts_root() / "config").glob("model.schema.json"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "odd.schema.json").write_text(json.dumps({"$id": "coordexp:odd", "description": "x" * 20, **schema}))
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    with pytest.raises(ContractFileError, match=says):
        build_rule("coordexp:odd")
