"""What changed between a recorded symbol and the installed one, in sentences. Contract ids: UP-*."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audit.upstream.describe import Record

_REQUIRED = "required"
_PLAIN, _ASYNC = "a plain function", "a coroutine (async def)"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter as it is read back from a recorded signature."""

    name: str
    kind: str
    default: str

    @property
    def words(self) -> str:
        """`required`, or the default."""
        return _REQUIRED if not self.default else f"default {self.default}"


def changes(old: Record, new: Record) -> list[str]:
    """Every difference of two records, one sentence each; the empty list when they are equal."""
    found = []
    if old["kind"] != new["kind"]:
        found.append(f"kind: was {old['kind']}, is {new['kind']}")
    if old.get("lives") != new.get("lives"):
        before, after = (record.get("lives", "where its name says") for record in (old, new))
        found.append(f"moved from {before} to {after}; the name that the project uses still leads there")
    if old.get("coroutine") != new.get("coroutine"):
        was, now = (_ASYNC if record.get("coroutine") else _PLAIN for record in (old, new))
        found.append(f"was {was}, is {now}")
    found += _signature_changes(_forms(old), _forms(new))
    found += _list_changes("bases", old.get("bases", []), new.get("bases", []))
    found += _list_changes("abstract methods", old.get("abstract", []), new.get("abstract", []))
    if old.get("value") != new.get("value"):
        found.append(f"was {old.get('value', 'without a value')}, is {new.get('value', 'without a value')}")
    found += _mapping_changes("member", old.get("members", {}), new.get("members", {}))
    found += _mapping_changes("field", old.get("fields", {}), new.get("fields", {}))
    found += _mapping_changes("route", old.get("routes", {}), new.get("routes", {}))
    if old.get("body") != new.get("body"):
        found.append("its content changed; read it again and see whether what relies on it still holds")
    return found


def touched_parameters(old: Record, new: Record) -> set[str]:
    """Names of parameters that are gone or are passed in another way."""
    before, after = ({p.name: p for form in read_forms(record) for p in form} for record in (old, new))
    return {name for name, parameter in before.items() if name not in after or after[name].kind != parameter.kind}


def read_forms(record: Record) -> list[list[Parameter]]:
    """The parameters of each form of the recorded signature; none where it has no signature."""
    return [read_parameters(form) for form in _forms(record)]


def read_parameters(signature: str) -> list[Parameter]:
    """The parameters of a recorded signature, in order, with the names that Python's `inspect` gives their kinds."""
    arguments = ast.parse(f"def f{signature}: ...").body[0].args  # type: ignore[attr-defined]
    plain = [(a.arg, "positional-only") for a in arguments.posonlyargs]
    plain += [(a.arg, "positional or keyword") for a in arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
    found = [Parameter(name, kind, _text(value)) for (name, kind), value in zip(plain, defaults, strict=True)]
    if arguments.vararg:
        found.append(Parameter(f"*{arguments.vararg.arg}", "variadic", "()"))
    for argument, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append(Parameter(argument.arg, "keyword-only", _text(value)))
    if arguments.kwarg:
        found.append(Parameter(f"**{arguments.kwarg.arg}", "variadic", "{}"))
    return found


def _forms(record: Record) -> list[str]:
    signature = record.get("signature", [])
    return [signature] if isinstance(signature, str) else list(signature)


def _signature_changes(old: list[str], new: list[str]) -> Iterator[str]:
    if len(old) == len(new) == 1:
        yield from _parameter_changes(read_parameters(old[0]), read_parameters(new[0]))
        return
    yield from (f"can no longer be called as {form}" for form in old if form not in new)
    yield from (f"can now be called as {form}" for form in new if form not in old)


def _parameter_changes(old: list[Parameter], new: list[Parameter]) -> Iterator[str]:
    before, after = ({parameter.name: parameter for parameter in side} for side in (old, new))
    for name, parameter in before.items():
        if name not in after:
            yield f"parameter {name} removed"
        elif after[name].kind != parameter.kind:
            yield f"parameter {name} was {parameter.kind}, is {after[name].kind}"
        elif after[name].default != parameter.default:
            yield f"parameter {name}: {parameter.words} became {after[name].words}"
    for name, parameter in after.items():
        if name not in before:
            yield f"parameter {name} added ({parameter.words})"
    kept_old, kept_new = ([name for name in side if name in before and name in after] for side in (before, after))
    if any(one != other for one, other in zip_longest(kept_old, kept_new)):
        yield f"parameters were in the order {_listed(kept_old)}, are in the order {_listed(kept_new)}"


def _list_changes(word: str, old: list[str], new: list[str]) -> Iterator[str]:
    if old != new:
        yield f"{word} were {_listed(old)}, are {_listed(new)}"


def _mapping_changes(word: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name, value in old.items():
        if name not in new:
            yield f"{word} {name} removed"
        elif new[name] != value:
            yield f"{word} {name} was {value or 'untyped'}, is {new[name] or 'untyped'}"
    yield from (f"{word} {name} added: {value}" for name, value in new.items() if name not in old)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _text(value: ast.expr | None) -> str:
    return "" if value is None else ast.unparse(value)
