"""The record contract and the code that upholds it say the same: keys, removed keys, policies, cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordexp.data.cooking_types import ADJUSTMENTS, OBJECT_DROPS, OBJECT_IGNORES, RECORD_DROPS, CookOptions, DropCounts
from coordexp.data.rules import OBJECT_KEYS, REMOVED_OBJECT_KEYS, TOP_KEYS
from coordexp.spec import Case, load_cases, read_schema, violations

CASES = load_cases(Path(__file__).parents[2] / "fixtures/records/records.json").cases
SCHEMA = read_schema("record")
UNREADABLE = {"invalid_json", "empty_line", "duplicate_key"}


@pytest.mark.invariant("DATA-004")
def test_the_schema_and_the_rules_know_the_same_keys() -> None:
    found = SCHEMA["$defs"]["object"]
    assert set(TOP_KEYS) == set(SCHEMA["properties"])
    assert set(OBJECT_KEYS) == set(found["properties"])
    assert found["x-removed"] == REMOVED_OBJECT_KEYS


@pytest.mark.invariant("DATA-004")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_the_schema_gives_the_verdict_of_the_rules(case: Case) -> None:
    broken = {rule for rule, _ in case.expect}
    if broken & UNREADABLE:
        assert broken <= set(SCHEMA["x-beyond-schema"])
        return
    found = violations("record", json.loads(case.input))
    assert bool(found) == bool(broken - set(SCHEMA["x-beyond-schema"]))


@pytest.mark.invariant("DATA-003")
@pytest.mark.parametrize("policy", sorted(SCHEMA["x-policies"]))
def test_each_policy_is_shown_by_a_case(policy: str) -> None:
    shown = [case for case in CASES if policy in case.comment.replace(",", "").split()]
    outcome = SCHEMA["x-policies"][policy]["outcome"]
    assert shown
    assert all(bool(case.expect) == (outcome == "refused") for case in shown)


@pytest.mark.invariant("DATA-009")
def test_the_manifest_contract_names_every_counter() -> None:
    schema = read_schema("cook-manifest")["properties"]
    assert set(schema["objects"]["properties"]["dropped"]["properties"]) == set(OBJECT_DROPS)
    assert set(schema["objects"]["properties"]["ignored"]["properties"]) == set(OBJECT_IGNORES)
    assert set(schema["records"]["properties"]["dropped"]["properties"]) == set(RECORD_DROPS)
    assert set(schema["adjusted"]["properties"]) == set(ADJUSTMENTS)
    assert set(schema["options"]["properties"]) == set(CookOptions(1024).as_json())


@pytest.mark.invariant("DATA-009")
def test_a_manifest_without_one_of_its_counters_is_refused() -> None:
    digest = "0" * 64
    whole = {
        "schema_version": 1,
        "annotations_sha256": digest,
        "output_sha256": digest,
        "options": CookOptions(1024).as_json(),
        **DropCounts().as_json(Path()),
        "warnings": [],
        "descs": {},
    }
    assert violations("cook-manifest", whole) == []
    for reason in OBJECT_DROPS:
        objects = whole["objects"] | {"dropped": {key: 0 for key in OBJECT_DROPS if key != reason}}
        assert violations("cook-manifest", whole | {"objects": objects})
