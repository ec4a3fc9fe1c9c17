"""A quick yes to the question whether a value fits a schema. Enters: a schema; leaves: a function of values. EVAL-092.

True means that the value fits. False means that it may not: whoever needs to know, and why, asks the validator. Files
of thousands of lines are checked line by line, and a validator takes longer for that than the evaluation they are of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Verdict = Callable[[Any], bool]
Resolve = Callable[[str, str], tuple[str, Mapping[str, Any]]]
"""The reference in a schema (its id) to the id and the content of the schema that it means."""
_SILENT = frozenset(
    {"$schema", "$id", "$defs", "$comment", "title", "description", "default", "examples", "deprecated"}
)


class QuickCheck:
    """Verdicts on schemas that refer to each other, each built once."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._of_reference: dict[tuple[str, str], Verdict] = {}

    def build(self, schema: Any, own: str) -> Verdict:
        """The verdict of `schema`, part of the schema with the id `own`."""
        if isinstance(schema, bool):
            return lambda value: schema
        silent = {key for key in schema if key in _SILENT or key.startswith("x-")}
        if schema.keys() - silent - _KEYWORDS.keys() - _APPLICATORS:
            return _unsure
        parts = [_KEYWORDS[key](schema[key]) for key in schema if key in _KEYWORDS]
        if "$ref" in schema:
            parts.append(self._reference(schema["$ref"], own))
        if "anyOf" in schema:
            parts.append(_any([self.build(part, own) for part in schema["anyOf"]]))
        if "allOf" in schema:
            parts += [self.build(part, own) for part in schema["allOf"]]
        if "propertyNames" in schema:
            parts.append(_keys(self.build(schema["propertyNames"], own)))
        if "items" in schema:
            parts.append(_items(self.build(schema["items"], own)))
        if schema.get("unevaluatedProperties", True) is not True:
            parts.append(self._closed(schema, own))
        if "properties" in schema or "additionalProperties" in schema:
            known = {key: self.build(part, own) for key, part in schema.get("properties", {}).items()}
            parts.append(_properties(known, self.build(schema.get("additionalProperties", True), own)))
        return parts[0] if len(parts) == 1 else lambda value: all(part(value) for part in parts)

    def _closed(self, schema: Mapping[str, Any], own: str) -> Verdict:
        """Whether a value has no other key than those that the schema and what it refers to name."""
        if schema["unevaluatedProperties"] is not False:
            return _unsure
        names: list[frozenset[str]] = []

        def fits(value: Any) -> bool:
            if not names:
                names.append(frozenset(self._named(schema, own)))
            return not isinstance(value, dict) or value.keys() <= names[0]

        return fits

    def _named(self, schema: Mapping[str, Any], own: str) -> Iterator[str]:
        yield from schema.get("properties", ())
        for part in schema.get("allOf", ()):
            yield from self._named(part, own)
        if "$ref" in schema:
            meant, part = self._resolve(schema["$ref"], own)
            yield from self._named(part, meant)

    def _reference(self, reference: str, own: str) -> Verdict:
        key = (own, reference)

        def follow(value: Any) -> bool:
            # Built when first needed: a schema may refer to itself.
            if key not in self._of_reference:
                meant, schema = self._resolve(reference, own)
                self._of_reference[key] = self.build(schema, meant)
            return self._of_reference[key](value)

        return follow


def _unsure(_: Any) -> bool:
    return False


def _any(parts: list[Verdict]) -> Verdict:
    return lambda value: any(part(value) for part in parts)


def _items(item: Verdict) -> Verdict:
    return lambda value: not isinstance(value, list) or all(map(item, value))


def _keys(name: Verdict) -> Verdict:
    return lambda value: not isinstance(value, dict) or all(map(name, value))


def _properties(known: Mapping[str, Verdict], other: Verdict) -> Verdict:
    def fits(value: Any) -> bool:
        if not isinstance(value, dict):
            return True
        return all(known.get(key, other)(part) for key, part in value.items())

    return fits


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Mapping[str, Verdict] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": _is_number,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
}


def _type(names: str | list[str]) -> Verdict:
    return _TYPES[names] if isinstance(names, str) else _any([_TYPES[name] for name in names])


def _enum(values: list[Any]) -> Verdict:
    # 1 and true are equal in Python and different in JSON.
    known = {(type(value), value) for value in values if isinstance(value, str | int | None)}
    return lambda value: isinstance(value, str | int | None) and (type(value), value) in known


def _required(keys: list[str]) -> Verdict:
    wanted = frozenset(keys)
    return lambda value: not isinstance(value, dict) or wanted <= value.keys()


def _pattern(pattern: str) -> Verdict:
    search = re.compile(pattern).search
    return lambda value: not isinstance(value, str) or search(value) is not None


def _unique(wanted: bool) -> Verdict:
    def fits(value: Any) -> bool:
        if not wanted or not isinstance(value, list):
            return True
        return all(isinstance(one, str) for one in value) and len(set(value)) == len(value)

    return fits


def _length(
    kind: type[list[Any] | str | dict[str, Any]], holds: Callable[[int, int], bool]
) -> Callable[[int], Verdict]:
    return lambda limit: lambda value: not isinstance(value, kind) or holds(len(value), limit)


def _bound(holds: Callable[[float, float], bool]) -> Callable[[float], Verdict]:
    return lambda limit: lambda value: not _is_number(value) or holds(value, limit)


_KEYWORDS: Mapping[str, Callable[[Any], Verdict]] = {
    "type": _type,
    "enum": _enum,
    "const": lambda value: _enum([value]),
    "required": _required,
    "pattern": _pattern,
    "uniqueItems": _unique,
    "minItems": _length(list, lambda size, limit: size >= limit),
    "maxItems": _length(list, lambda size, limit: size <= limit),
    "minLength": _length(str, lambda size, limit: size >= limit),
    "maxLength": _length(str, lambda size, limit: size <= limit),
    "minProperties": _length(dict, lambda size, limit: size >= limit),
    "maxProperties": _length(dict, lambda size, limit: size <= limit),
    "minimum": _bound(lambda value, limit: value >= limit),
    "maximum": _bound(lambda value, limit: value <= limit),
    "exclusiveMinimum": _bound(lambda value, limit: value > limit),
    "exclusiveMaximum": _bound(lambda value, limit: value < limit),
}
_APPLICATORS = frozenset(
    {
        "$ref",
        "anyOf",
        "allOf",
        "items",
        "propertyNames",
        "properties",
        "additionalProperties",
        "unevaluatedProperties",
    }
)
