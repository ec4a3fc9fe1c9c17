"""Turns errors of the jsonschema library into `Violation`s: one per unknown key, with what is allowed there."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, cast

from coordexp.spec.types import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jsonschema import ValidationError

_SHOWN = 80
_TAGS = ("const", "enum", "type")
_TYPE_NAMES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def explain(contract_id: str, errors: Iterable[ValidationError]) -> Iterator[Violation]:
    """Yield the violations behind `errors`, in the instance's order of paths as the library gives them."""
    for error in errors:
        yield from _EXPLAINERS.get(str(error.validator), _plain)(contract_id, error)


def nearest_of(word: str, allowed: Iterable[str]) -> str | None:
    """The entry of `allowed` most like `word`, or None when nothing resembles it."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return close[0] if close else None


def _path(error: ValidationError) -> tuple[str | int, ...]:
    return tuple(error.absolute_path)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _unknown_keys(contract_id: str, error: ValidationError) -> Iterator[Violation]:
    schema, instance = cast("dict[str, Any]", error.schema), cast("dict[str, Any]", error.instance)
    known = tuple(schema.get("properties", {}))
    removed: dict[str, str] = schema.get("x-removed", {})
    if error.validator == "additionalProperties":
        unknown = [key for key in instance if key not in known]
    else:
        unknown = [key for key in instance if repr(key) in error.message]
    for key in unknown:
        near, guidance = nearest_of(str(key), known), removed.get(key)
        if guidance is not None:
            message = f"{key!r} was removed: {guidance}"
        else:
            hint = f"; nearest: {near!r}" if near else ""
            message = f"unknown key {key!r}; allowed: {', '.join(known) or 'no keys'}{hint}"
        yield Violation(contract_id, (*_path(error), key), message, known, near, guidance, "unknown-key")


def _missing_key(contract_id: str, error: ValidationError) -> Iterator[Violation]:
    required, instance = cast("list[str]", error.validator_value), cast("dict[str, Any]", error.instance)
    key = next(key for key in required if key not in instance and error.message.startswith(repr(key)))
    yield Violation(contract_id, (*_path(error), key), f"required key {key!r} is missing", keyword="required")


def _enum(contract_id: str, error: ValidationError) -> Iterator[Violation]:
    limit: Any = error.validator_value
    values: list[Any] = limit if error.validator == "enum" else [limit]
    allowed = tuple(value if isinstance(value, str) else repr(value) for value in values)
    near = nearest_of(error.instance, allowed) if isinstance(error.instance, str) else None
    hint = f"; nearest: {near!r}" if near and len(allowed) > 1 else ""
    message = f"{_show(error.instance)} is not allowed; allowed: {', '.join(map(_show, values))}{hint}"
    yield Violation(contract_id, _path(error), message, allowed, near, keyword=str(error.validator))


def _type(contract_id: str, error: ValidationError) -> Iterator[Violation]:
    limit: Any = error.validator_value
    wanted: list[str] = limit if isinstance(limit, list) else [limit]
    names = " or ".join(_TYPE_NAMES[name] for name in wanted)
    yield Violation(contract_id, _path(error), f"{_show(error.instance)} is not {names}", tuple(wanted), keyword="type")


def _union(contract_id: str, error: ValidationError) -> Iterator[Violation]:
    """Report the branch the author most likely meant: fewest failed tags (const, enum, type), then fewest failures."""
    branches: dict[int, list[ValidationError]] = {}
    for inner in error.context or ():
        branches.setdefault(int(inner.schema_path[0]), []).append(inner)
    if not branches:
        yield from _plain(contract_id, error)
        return

    def unlikeliness(failures: Iterable[ValidationError]) -> tuple[int, int]:
        here = len(error.absolute_path)
        shallow = [f for f in failures if len(f.absolute_path) <= here + 1]
        return sum(f.validator in _TAGS for f in shallow), len(list(failures))

    yield from explain(contract_id, min(branches.values(), key=unlikeliness))


def _plain(contract_id: str, error: ValidationError) -> Iterator[Violation]:
    limit = error.validator_value
    texts = {
        "minimum": "is below {}",
        "maximum": "is above {}",
        "exclusiveMinimum": "must be above {}",
        "exclusiveMaximum": "must be below {}",
        "minItems": "has fewer than {} items",
        "maxItems": "has more than {} items",
        "minLength": "is shorter than {} characters",
        "pattern": "does not match {!r}",
        "multipleOf": "is no multiple of {}",
        "uniqueItems": "holds an item twice",
    }
    template = texts.get(str(error.validator))
    message = f"{_show(error.instance)} {template.format(limit)}" if template else error.message
    if len(message) > 3 * _SHOWN:
        message = message[: 3 * _SHOWN] + "…"
    yield Violation(contract_id, _path(error), message, keyword=str(error.validator))


_EXPLAINERS: dict[str, Callable[[str, ValidationError], Iterator[Violation]]] = {
    "additionalProperties": _unknown_keys,
    "unevaluatedProperties": _unknown_keys,
    "required": _missing_key,
    "enum": _enum,
    "const": _enum,
    "type": _type,
    "anyOf": _union,
    "oneOf": _union,
}
