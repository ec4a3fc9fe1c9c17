"""Every requirement ends somewhere: an invariant lists it, or a remark says where it ends or why it does not yet."""

from __future__ import annotations

import re

import pytest

from audit.requirements import load_remarks
from coordexp.spec import load_invariants, load_requirements

pytestmark = pytest.mark.invariant("SPEC-013")

LISTED = {key: invariant.id for invariant in load_invariants() for key in invariant.requirements}


def test_a_requirement_without_an_invariant_has_a_remark() -> None:
    remarks = load_remarks()
    assert [row.id for row in load_requirements() if row.id not in LISTED and row.id not in remarks] == []


def test_nothing_is_deferred_that_an_invariant_lists() -> None:
    deferred = [key for key, remark in load_remarks().items() if remark.kind == "deferred"]
    assert {key: LISTED[key] for key in deferred if key in LISTED} == {}


def test_a_remark_names_only_invariants_that_exist() -> None:
    known = {invariant.id for invariant in load_invariants()}
    prefixes = {key.split("-")[0] for key in known}
    for key, remark in load_remarks().items():
        for prefix, number in re.findall(r"\b([A-Z]+)-(\d{3})?(?![\d.])", remark.note):
            if prefix in ("AUDIT", "REG", "CFG", "REP"):
                continue
            assert prefix in prefixes, f"{key}: {prefix}- names no area"
            assert not number or f"{prefix}-{number}" in known, f"{key}: {prefix}-{number} does not exist"
