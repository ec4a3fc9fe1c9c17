"""Indexes the JSON Schemas (2020-12) of `contracts/` by `$id`: in, a contract id and a value; out, the value.

Validators are built once a process; schemas may refer to each other (`{"$ref": "coordexp:record"}`). SPEC-001..003.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from coordexp.spec.documents import read_json
from coordexp.spec.explain import explain, nearest_of
from coordexp.spec.quick import QuickCheck, Verdict
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
        self._quick = QuickCheck(self._referred)
        self._verdicts: dict[str, Verdict] = {}

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
        """Whether no validator needs to be asked."""
        full_id = self.resolve(schema_id)
        if full_id not in self._verdicts:
            self._verdicts[full_id] = self._quick.build(self.schemas[full_id], full_id)
        return self._verdicts[full_id](obj)

    def _referred(self, reference: str, own: str) -> tuple[str, Any]:
        """The id and content of the schema that `reference`, in the schema `own`, means."""
        name, _, pointer = reference.partition("#")
        meant = self.resolve(name) if name else own
        part: Any = self.schemas[meant]
        for key in pointer.split("/")[1:]:
            part = part[key.replace("~1", "/").replace("~0", "~")]
        return meant, part


@lru_cache(maxsize=8)
def _index(root: Path) -> _Index:
    return _Index(root)
