"""Finds and indexes `contracts/`: `check(id, obj)` at every boundary, invariants, requirements, cases. No torch."""

from __future__ import annotations

from coordexp.spec.declarations import load_cases, load_invariants, load_requirements, read_grammar
from coordexp.spec.documents import RepeatedKeyError, read_json, read_yaml, unique_pairs
from coordexp.spec.root import ROOT_VARIABLE, contract_path, contracts_root
from coordexp.spec.schemas import check, read_schema, schema_ids, schema_path, violations
from coordexp.spec.types import (
    Case,
    CaseFile,
    ContractFileError,
    ContractViolation,
    Invariant,
    Mutant,
    Requirement,
    Violation,
)

__all__ = [
    "ROOT_VARIABLE",
    "Case",
    "CaseFile",
    "ContractFileError",
    "ContractViolation",
    "Invariant",
    "Mutant",
    "RepeatedKeyError",
    "Requirement",
    "Violation",
    "check",
    "contract_path",
    "contracts_root",
    "load_cases",
    "load_invariants",
    "load_requirements",
    "read_grammar",
    "read_json",
    "read_schema",
    "read_yaml",
    "schema_ids",
    "schema_path",
    "unique_pairs",
    "violations",
]
