"""Checks a plain value against a rule and names every fault. Contract ids: CONFIG-003, CONFIG-004, CONFIG-015.

In: a rule and a value; out: faults, each with the path of the value (of the key itself when it is unknown or missing).
"""

from __future__ import annotations

import json
import math
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordexp.config.problems import KeyPath, bare, nearest_match, render_path, show
from coordexp.config.rules import REQUIRED, Rule, build_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BOUNDS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "minimum": (operator.ge, "at least"),
    "maximum": (operator.le, "at most"),
    "exclusiveMinimum": (operator.gt, "above"),
    "exclusiveMaximum": (operator.lt, "below"),
}
_NUMBER_TEXT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_LONG_NUMBER = 30
_FEW = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at `path`. `missing` tells a required key that is not there from a value that is wrong."""

    path: KeyPath
    message: str
    missing: bool = False


def find_faults(rule: Rule, value: object, path: KeyPath = ()) -> list[Fault]:
    """Every fault of `value`, in the order it is written; missing keys come before the others of their mapping."""
    faults: list[Fault] = []
    _walk(rule, value, path, faults)
    return faults


def _walk(rule: Rule, value: Any, path: KeyPath, faults: list[Fault]) -> None:
    kind = type(value)
    if kind not in rule.types:
        faults.append(Fault(path, _wrong_type(rule, value)))
    elif rule.enum is not None and value not in rule.enum:
        faults.append(Fault(path, _wrong_choice(rule, value)))
    elif kind is dict:
        _walk_mapping(rule, value, path, faults)
    elif kind is list:
        _walk_list(rule, value, path, faults)
    elif kind is str:
        _check_text(rule, value, path, faults)
    elif rule.bounds and value is not None:
        _check_bounds(rule, value, path, faults)


def _walk_mapping(rule: Rule, value: dict[str, Any], path: KeyPath, faults: list[Fault]) -> None:
    for key in rule.required:
        if key not in value:
            faults.append(Fault((*path, key), _missing_key(rule, key), missing=True))
    known = rule.properties
    for key, child in value.items():
        if key in rule.removed:
            faults.append(Fault((*path, key), f"removed: {rule.removed[key]}"))
            if key in rule.moved and isinstance(child, dict):
                _walk(rule.moved[key], child, (*path, key), faults)
        elif known is None:
            continue
        elif key in known:
            _walk(known[key], child, (*path, key), faults)
        else:
            faults.append(Fault((*path, key), _unknown_key(rule, key)))


def _walk_list(rule: Rule, value: list[Any], path: KeyPath, faults: list[Fault]) -> None:
    least, most = rule.size
    if len(value) < least:
        faults.append(Fault(path, f"has {_items(len(value))}, at least {least} needed: {rule.description}"))
    if most is not None and len(value) > most:
        faults.append(Fault(path, f"has {_items(len(value))}, at most {most} allowed: {rule.description}"))
    seen: set[str] = set()
    for index, item in enumerate(value):
        text = json.dumps(item, sort_keys=True)
        if rule.unique and text in seen:
            faults.append(Fault((*path, index), f"{show(item)} is listed twice; keep one"))
        seen.add(text)
        if rule.items is not None:
            _walk(rule.items, item, (*path, index), faults)


def _check_text(rule: Rule, value: str, path: KeyPath, faults: list[Fault]) -> None:
    if len(value) < rule.min_length:
        faults.append(Fault(path, f"is empty: {rule.description}"))
    elif rule.pattern is not None and rule.pattern.search(value) is None:
        faults.append(Fault(path, f"{show(value)} does not have the form {rule.pattern.pattern}: {rule.description}"))


def _check_bounds(rule: Rule, value: float, path: KeyPath, faults: list[Fault]) -> None:
    broken = [_bound_text(name, limit) for name, limit in rule.bounds if not _BOUNDS[name][0](value, limit)]
    if broken:
        allowed = " and ".join(_bound_text(name, limit) for name, limit in rule.bounds)
        faults.append(Fault(path, f"{value!r} is out of range, allowed is {allowed}: {rule.description}"))


def _bound_text(name: str, limit: float) -> str:
    return f"{_BOUNDS[name][1]} {limit:.10g}"


def _unknown_key(rule: Rule, key: str) -> str:
    assert rule.properties is not None
    if not rule.properties:
        return f"unknown key; this section takes none: {rule.description}"
    homes = [place for place in _places(build_rule(), ()) if place[-1] == key]
    near = nearest_match(key, rule.properties)
    hint = f"did you mean {near}? " if near else ""
    if 0 < len(homes) <= _FEW:
        hint = f"it belongs at {' or '.join(render_path(place) for place in homes)}; "
    return f"unknown key; {hint}allowed: {', '.join(rule.properties)}"


def _places(rule: Rule, path: KeyPath) -> Iterator[KeyPath]:
    """The path of every key of a configuration."""
    for key, inner in (rule.properties or {}).items():
        yield (*path, key)
        yield from _places(inner, (*path, key))


def _missing_key(rule: Rule, key: str) -> str:
    assert rule.properties is not None
    return f"required and missing: {rule.properties[key].description}"


def _wrong_type(rule: Rule, value: object) -> str:
    message = f"{show(value)} is not {rule.wanted}"
    if isinstance(value, str) and rule.types & {int, float} and _NUMBER_TEXT.fullmatch(value):
        return f"{message}{_number_advice(rule, value)}"
    if isinstance(value, bool) and str in rule.types:
        return f'{message}: bare yes, no, on and off are YAML booleans; write it in quotes, as "no"'
    if isinstance(value, float) and value.is_integer() and int in rule.types:
        return f"{message}: write {int(value)}"
    if value is None and rule.default is not REQUIRED:
        return f"{message}: delete the key, and its default holds"
    return message


def _number_advice(rule: Rule, text: str) -> str:
    """What to write for a number that YAML took for text; nothing when no spelling of it would do."""
    number = float(text)
    if len(text) > _LONG_NUMBER or not math.isfinite(number):
        return ""
    if float in rule.types:
        written = _with_point(repr(number))
    elif number.is_integer():
        written = str(int(number))
    else:
        return ""
    return f": YAML reads it as text; write {written} without quotes"


def _wrong_choice(rule: Rule, value: object) -> str:
    assert rule.enum is not None
    if isinstance(value, str) and value in rule.removed_values:
        return f"{show(value)} is not allowed: {rule.removed_values[value]}"
    if len(rule.enum) == 1:
        reason = f": {rule.description}" if rule.description else ""
        return f"{show(value)} is not allowed, it must be {bare(rule.enum[0])}{reason}"
    near = nearest_match(value, rule.enum) if isinstance(value, str) else None
    hint = f"did you mean {near}? " if near else ""
    return f"{show(value)} is not allowed; {hint}allowed: {', '.join(map(bare, rule.enum))}"


def _with_point(text: str) -> str:
    """A float's text as YAML 1.1 reads it: with a point before the exponent."""
    mantissa, mark, exponent = text.partition("e")
    return f"{mantissa}.0{mark}{exponent}" if mark and "." not in mantissa else text


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count} items"
