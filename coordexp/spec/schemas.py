"""Indexes the JSON Schemas (2020-12) of `contracts/` by `$id`: in, a contract id and a value; out, the value.

Validators are built once a process; schemas may refer to each other (`{"$ref": "coordexp:record"}`). SPEC-001..003,
EVAL-092.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import jsonschema_rs
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from coordexp.spec.documents import read_json
from coordexp.spec.explain import explain, nearest_of
from coordexp.spec.root import contracts_root
from coordexp.spec.types import ContractFileError, ContractViolation, Violation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEME = "coordexp:"
SUFFIX = ".schema.json"
T = TypeVar("T")


def schema_ids() -> tuple[str, ...]:
    """Full ids (`coordexp:<name>`) of every contract schema, sorted."""
    return tuple(sorted(_index(contracts_root()).paths))


def read_schema(schema_id: str) -> Mapping[str, Any]:
    """The schema called `schema_id` (with or without `coordexp:`). Raises `ContractFileError` for an unknown id."""
    index = _index(contracts_root())
    return index.schemas[index.resolve(schema_id)]


def schema_path(schema_id: str) -> Path:
    """File of the schema called `schema_id`."""
    index = _index(contracts_root())
    return index.paths[index.resolve(schema_id)]


def check(schema_id: str, obj: T) -> T:
    """Return `obj` when it fits the contract; raise `ContractViolation` for its first violation otherwise."""
    index = _index(contracts_root())
    if index.surely_fits(schema_id, obj):
        return obj
    validator, full_id = index.validator(schema_id)
    error = next(validator.iter_errors(obj), None)
    if error is not None:
        raise ContractViolation(next(explain(full_id, [error])))
    return obj


def violations(schema_id: str, obj: object) -> list[Violation]:
    """Every violation of the contract by `obj`; the empty list when it fits."""
    validator, full_id = _index(contracts_root()).validator(schema_id)
    return list(explain(full_id, validator.iter_errors(obj)))


class _Index:
    """The schemas under one contracts root, with their compiled validators."""

    def __init__(self, root: Path) -> None:
        self.paths: dict[str, Path] = {}
        self.schemas: dict[str, dict[str, Any]] = {}
        for path in sorted(root.rglob(f"*{SUFFIX}")):
            schema = read_json(path)
            schema_id = schema.get("$id") if isinstance(schema, dict) else None
            if not isinstance(schema_id, str) or not schema_id.startswith(SCHEME):
                raise ContractFileError(f"{path}: $id must be '{SCHEME}<name>', got {schema_id!r}")
            if schema_id in self.paths:
                raise ContractFileError(f"{path}: $id {schema_id!r} is already that of {self.paths[schema_id]}")
            self.paths[schema_id], self.schemas[schema_id] = path, schema
        if not self.paths:
            raise ContractFileError(f"{root}: holds no *{SUFFIX}")
        resources = [(key, DRAFT202012.create_resource(value)) for key, value in self.schemas.items()]
        self._registry: Registry[Any] = Registry().with_resources(resources)
        self._validators: dict[str, Draft202012Validator] = {}
        self._quick_registry = jsonschema_rs.Registry(list(self.schemas.items()), draft=jsonschema_rs.Draft202012)
        self._quick: dict[str, jsonschema_rs.Draft202012Validator] = {}

    def resolve(self, schema_id: str) -> str:
        full_id = schema_id if schema_id.startswith(SCHEME) else SCHEME + schema_id
        if full_id not in self.paths:
            near = nearest_of(full_id, self.paths)
            raise ContractFileError(f"no contract {full_id!r}" + (f"; nearest: {near!r}" if near else ""))
        return full_id

    def validator(self, schema_id: str) -> tuple[Draft202012Validator, str]:
        full_id = self.resolve(schema_id)
        if full_id not in self._validators:
            self._validators[full_id] = Draft202012Validator(self.schemas[full_id], registry=self._registry)
        return self._validators[full_id], full_id

    def surely_fits(self, schema_id: str, obj: object) -> bool:
        """Whether no validator needs to be asked: a compiled one, without words, says yes.

        Files of answers are checked line by line, and the validator with words takes longer than evaluating them.
        """
        full_id = self.resolve(schema_id)
        if full_id not in self._quick:
            schema = self.schemas[full_id]
            self._quick[full_id] = jsonschema_rs.Draft202012Validator(schema, registry=self._quick_registry)
        try:
            return self._quick[full_id].is_valid(obj)
        except ValueError:
            # What it cannot read, a NumPy number or half of a surrogate pair, the other one judges.
            return False


@lru_cache(maxsize=8)
def _index(root: Path) -> _Index:
    return _Index(root)
