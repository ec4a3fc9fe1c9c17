"""Finds the places where a contract schema is open by accident: in, a schema; out, one text for each such place.

An object is closed by `additionalProperties` (false or a schema) or `unevaluatedProperties`; an open one says why in
`x-open`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAPS = ("properties", "patternProperties", "$defs", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_ONES = ("items", "additionalProperties", "contains", "propertyNames", "then", "else")


def open_places(schema: dict[str, Any], where: str = "#") -> Iterator[str]:
    """Yield `where` for every object subschema that accepts unknown keys without an `x-open` reason."""
    if _is_object(schema) and not _is_closed(schema) and "x-open" not in schema:
        yield f"{where}: an object that accepts unknown keys (close it, or give the reason in x-open)"
    for place, inner in _inner_schemas(schema):
        yield from open_places(inner, f"{where}/{place}")


def undescribed(schema: dict[str, Any]) -> Iterator[str]:
    """Yield the properties of objects, at any depth, with neither a description nor a reference to a described schema.

    A schema without a type only adds conditions to properties that are described where the object is.
    """
    for place, inner in _inner_schemas(schema):
        described = "description" in inner or "$ref" in inner or "const" in inner
        if place.startswith("properties/") and _is_object(schema) and not described:
            yield place.removeprefix("properties/")
        yield from undescribed(inner)


def _is_object(schema: dict[str, Any]) -> bool:
    kind = schema.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


def _is_closed(schema: dict[str, Any]) -> bool:
    rest = schema.get("additionalProperties", schema.get("unevaluatedProperties", True))
    return rest is False or (isinstance(rest, dict) and bool(rest))


def _inner_schemas(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for keyword in _MAPS:
        for name, inner in schema.get(keyword, {}).items():
            if isinstance(inner, dict):
                yield f"{keyword}/{name}", inner
    for keyword in _LISTS:
        for number, inner in enumerate(schema.get(keyword, [])):
            if isinstance(inner, dict):
                yield f"{keyword}/{number}", inner
    for keyword in _ONES:
        if isinstance(schema.get(keyword), dict):
            yield keyword, schema[keyword]
