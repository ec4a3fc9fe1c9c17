"""Compiles the config schemas of `contracts/config/` into rules that check a value fast. CONFIG-003, CONFIG-004.

In: a contract id; out: a `Rule` tree. The schemas stay the only truth: a keyword that a rule can't express is refused,
and a test compares rules with the JSON Schema library on generated values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from coordexp.spec import ContractFileError, contracts_root, read_schema

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

REQUIRED = object()
"""Default of a key that has none."""

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
TYPE_NAMES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
_ANNOTATIONS = {"$schema", "$id", "title", "description", "default", "x-open", "x-moves-to", "x-components", "x-gauges"}
_CHECKED = {
    "type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "pattern", "items",
    "minItems", "maxItems", "uniqueItems", "properties", "required", "additionalProperties", "x-removed",
    "x-moved", "x-removed-values", "$ref", "anyOf",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """What one value must be. `properties` is None for an open mapping and for everything that is no mapping.

    `removed` says what to write instead of a key; `moved` has the rule of one that was a section, where it is now.
    """

    names: tuple[str, ...]
    types: frozenset[type]
    description: str
    default: Any
    moves_to: str | None
    enum: tuple[Any, ...] | None = None
    bounds: tuple[tuple[str, float], ...] = ()
    min_length: int = 0
    pattern: re.Pattern[str] | None = None
    items: Rule | None = None
    size: tuple[int, int | None] = (0, None)
    unique: bool = False
    properties: Mapping[str, Rule] | None = None
    required: tuple[str, ...] = ()
    removed: Mapping[str, str] = field(default_factory=dict)
    moved: Mapping[str, Rule] = field(default_factory=dict)
    removed_values: Mapping[str, str] = field(default_factory=dict)
    schema_id: str | None = None

    @property
    def nullable(self) -> bool:
        """Whether null is a value."""
        return "null" in self.names

    @property
    def wanted(self) -> str:
        """The accepted types in words."""
        return " or ".join(TYPE_NAMES[name] for name in self.names)


def build_rule(schema_id: str = "coordexp:config") -> Rule:
    """The rule of a contract schema, built once for each contracts root."""
    return _build_rule(schema_id, contracts_root())


@lru_cache(maxsize=128)
def _build_rule(schema_id: str, _root: Path) -> Rule:
    return _compile(read_schema(schema_id), schema_id)


def _compile(schema: Mapping[str, Any], where: str) -> Rule:
    unknown = sorted(set(schema) - _ANNOTATIONS - _CHECKED)
    if unknown:
        raise ContractFileError(f"{where}: the config loader knows no keyword {unknown[0]!r}")
    if "$ref" in schema or "anyOf" in schema:
        return _referred(schema, where)
    names = _names(schema, where)
    lower = tuple((key, float(schema[key])) for key in ("minimum", "exclusiveMinimum") if key in schema)
    upper = tuple((key, float(schema[key])) for key in ("maximum", "exclusiveMaximum") if key in schema)
    properties = {key: _compile(value, f"{where}.{key}") for key, value in schema.get("properties", {}).items()}
    return Rule(
        names=names,
        types=frozenset(kind for name in names for kind in _TYPES[name]),
        description=schema.get("description", ""),
        default=_default(schema),
        moves_to=schema.get("x-moves-to"),
        enum=tuple(schema["enum"]) if "enum" in schema else None,
        bounds=lower + upper,
        min_length=schema.get("minLength", 0),
        pattern=re.compile(schema["pattern"]) if "pattern" in schema else None,
        items=_compile(schema["items"], f"{where}[]") if "items" in schema else None,
        size=(schema.get("minItems", 0), schema.get("maxItems")),
        unique=schema.get("uniqueItems", False),
        properties=properties if schema.get("additionalProperties") is False else None,
        required=tuple(schema.get("required", ())),
        removed=schema.get("x-removed", {}),
        moved={key: build_rule(target) for key, target in schema.get("x-moved", {}).items()},
        removed_values=schema.get("x-removed-values", {}),
        schema_id=schema.get("$id"),
    )


def _names(schema: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if "type" in schema:
        kind = schema["type"]
        return (kind,) if isinstance(kind, str) else tuple(kind)
    raise ContractFileError(f"{where}: a config value has a type")


def _default(schema: Mapping[str, Any]) -> Any:
    if "default" in schema:
        return schema["default"]
    return {} if schema.get("type") == "object" and not schema.get("required") else REQUIRED


def _referred(schema: Mapping[str, Any], where: str) -> Rule:
    """`{"$ref": id}`, or `{"anyOf": [{"$ref": id}, {"type": "null"}]}` for a section that may be left out."""
    branches = schema.get("anyOf", [schema])
    if len(branches) > 1 and (len(branches) != 2 or branches[1] != {"type": "null"}):
        raise ContractFileError(f"{where}: anyOf holds a reference and null, nothing else")
    target = build_rule(branches[0]["$ref"])
    null = len(branches) == 2
    return replace(
        target,
        names=(*target.names, "null") if null else target.names,
        types=target.types | {type(None)} if null else target.types,
        description=schema.get("description", target.description),
        default=schema.get("default", target.default),
    )
