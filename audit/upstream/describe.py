"""A definition becomes a record that can be compared: kind, place, parameters, bases, fields, routes, digest of the
body.

Texts are Python as a reader writes it: `(self, model=None)`, `int = 1`. Contract ids: UP-*.
"""

from __future__ import annotations

import ast
import hashlib
from typing import TYPE_CHECKING, TypedDict

import griffe

from audit.policy.source import bindings
from audit.upstream.installed import read_body
from audit.upstream.lookup import Found, Lookup, base_texts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

_VERBS = frozenset({"get", "post", "put", "patch", "delete"})
_LONG = 400
_CLASS_LEVEL = {"module-attribute", "class-attribute"}
_ROOTS = ("BaseModel", "Struct")
_ENUMS = "enum."


class Record(TypedDict, total=False):
    """One symbol of a contract; only what applies to its kind is there."""

    kind: str
    lives: str
    coroutine: bool
    signature: str | list[str]
    bases: list[str]
    abstract: list[str]
    members: dict[str, str]
    value: str
    fields: dict[str, str]
    routes: dict[str, str]
    body: str


def describe(lookup: Lookup, symbol: str, found: Found, extras: Collection[str] = ()) -> Record:
    """The record of `symbol`. `extras`: `fields` and `bases` of a class, `routes` and `body` of a function."""
    node = found.node
    record = Record(kind=kind_of(lookup, found))
    if found.place != symbol:
        record["lives"] = found.place
    if isinstance(node, griffe.Class):
        _describe_class(lookup, found, record, extras)
    elif isinstance(node, griffe.Function):
        if "async" in node.labels:
            record["coroutine"] = True
        record["signature"] = _signatures(found)
    elif isinstance(node, griffe.Attribute) and (record["kind"] == "field" or _at_class_level(node)):
        value = _value(node)
        if value:
            record["value"] = value
    if "routes" in extras and isinstance(node, griffe.Function):
        record["routes"] = dict(_routes(node))
    if "body" in extras and not isinstance(node, griffe.Module | griffe.Alias):
        record["body"] = hashlib.sha256(ast.dump(read_body(node)).encode()).hexdigest()[:16]
    return record


def describe_file(path: Path) -> Record:
    """The record of a data file of a package."""
    return Record(kind="file", body=hashlib.sha256(path.read_bytes()).hexdigest()[:16])


def kind_of(lookup: Lookup, found: Found) -> str:
    """What a definition is: module, class, function, method, classmethod, staticmethod, property, field, attribute."""
    node = found.node
    if isinstance(node, griffe.Alias):
        return "import"
    if isinstance(node, griffe.Module):
        return "module"
    if isinstance(node, griffe.Class):
        return "class"
    in_class = isinstance(node.parent, griffe.Class)
    if isinstance(node, griffe.Function):
        labels = node.labels & {"classmethod", "staticmethod"}
        return next(iter(labels), "method" if in_class else "function")
    if "property" in node.labels or "cached" in node.labels:
        return "property"
    if in_class and node.annotation is not None and isinstance(node.parent, griffe.Class):
        owner = Found(found.place.rpartition(".")[0], node.parent)
        if _has_fields(lookup, owner) and node in _declared(node.parent):
            return "field"
    return "attribute" if in_class else "constant"


def _describe_class(lookup: Lookup, found: Found, record: Record, extras: Collection[str]) -> None:
    bases = [_base_place(lookup, found, text) for text in base_texts(found)]
    if bases:
        record["bases"] = bases
    constructor = _constructor(lookup, found)
    if constructor is not None and not ("fields" in extras and _has_fields(lookup, found)):
        record["signature"] = _signatures(constructor)
    abstract = _abstract(lookup, found)
    if abstract:
        record["abstract"] = abstract
    members = _members(lookup, found)
    if members:
        record["members"] = members
    if "fields" in extras:
        record["fields"] = _fields(lookup, found)


def _abstract(lookup: Lookup, found: Found) -> list[str]:
    """Names that a deriving class has to define, or it cannot be made: abstract where they are defined last."""
    decided: dict[str, bool] = {}
    for owner in lookup.line_of(found):
        for name, member in owner.node.members.items():
            decided.setdefault(name, not member.is_alias and "abstractmethod" in member.labels)
    return sorted(name for name, abstract in decided.items() if abstract)


def _members(lookup: Lookup, found: Found) -> dict[str, str]:
    """Members of an enum with their values, as written."""
    lines = lookup.line_of(found)
    places = [_base_place(lookup, owner, text) for owner in lines for text in base_texts(owner)]
    if not any(place.startswith(_ENUMS) for place in places):
        return {}
    return {
        node.name: str(node.value)
        for owner in reversed(lines)
        if isinstance(owner.node, griffe.Class)
        for node in _declared(owner.node)
        if node.annotation is None and node.value is not None and not node.name.startswith("_")
    }


def _at_class_level(node: griffe.Attribute) -> bool:
    return "property" not in node.labels and bool(node.labels & _CLASS_LEVEL)


def _base_place(lookup: Lookup, found: Found, text: str) -> str:
    base = lookup.in_scope(found, text)
    return base.place if base else text


def _constructor(lookup: Lookup, found: Found) -> Found | None:
    """Its `__init__` (or `__new__`) and where it comes from; a dataclass that writes none has fields instead."""
    for owner in lookup.line_of(found):
        assert isinstance(owner.node, griffe.Class)
        for name in ("__init__", "__new__"):
            member, overloads = owner.node.members.get(name), tuple(owner.node.overloads.get(name) or ())
            if isinstance(member, griffe.Function) or overloads:
                node = member if isinstance(member, griffe.Function) else overloads[0]
                return Found(f"{owner.place}.{name}", node, overloads)
        if "dataclass" in owner.node.labels:
            return None
    return None


def _has_fields(lookup: Lookup, found: Found) -> bool:
    lines = lookup.line_of(found)
    return any(
        (isinstance(owner.node, griffe.Class) and "dataclass" in owner.node.labels)
        or any(text.endswith(_ROOTS) for text in base_texts(owner))
        for owner in lines
    )


def _fields(lookup: Lookup, found: Found) -> dict[str, str]:
    """Fields with type and default, those of the bases first, as a generated constructor takes them."""
    fields: dict[str, str] = {}
    own = (owner for owner in lookup.line_of(found) if not owner.place.endswith(_ROOTS))
    for owner in reversed(list(own)):
        assert isinstance(owner.node, griffe.Class)
        for node in _declared(owner.node):
            if node.annotation is not None and not str(node.annotation).startswith(("ClassVar", "typing.ClassVar")):
                fields[node.name] = _value(node)
    return fields


def _declared(owner: griffe.Class) -> list[griffe.Attribute]:
    """Attributes that the class body itself declares; `self.x: int = 1` inside a method is none."""
    bodies = [
        range(member.lineno or 0, (member.endlineno or 0) + 1)
        for member in owner.members.values()
        if isinstance(member, griffe.Function)
    ]
    return [
        member
        for member in owner.members.values()
        if isinstance(member, griffe.Attribute)
        and "property" not in member.labels
        and not any((member.lineno or 0) in lines for lines in bodies)
    ]


def _value(node: griffe.Attribute) -> str:
    annotation = "" if node.annotation is None else str(node.annotation)
    value = "" if node.value is None or node.name == "__version__" else _default(str(node.value))
    if len(value) > _LONG:
        value = f"… ({hashlib.sha256(value.encode()).hexdigest()[:12]})"
    return f"{annotation} = {value}".strip(" ").removeprefix("= ") if value else annotation


def _default(text: str) -> str:
    """`field(default=1, …)` is 1 and `field(default_factory=list)` is list(): help texts are no part of a contract."""
    call = ast.parse(text, mode="eval").body
    if not (isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2].lower() == "field"):
        return text
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if call.args or "default" in given:
        return ast.unparse(given["default"] if "default" in given else call.args[0])
    factory = given.get("default_factory")
    if isinstance(factory, ast.Lambda):
        return ast.unparse(factory.body)
    return f"{ast.unparse(factory)}()" if factory else ""


def _signatures(found: Found) -> str | list[str]:
    assert isinstance(found.node, griffe.Function)
    texts = list(dict.fromkeys(_signature(function) for function in found.overloads or (found.node,)))
    return texts[0] if len(texts) == 1 else texts


def _signature(function: griffe.Function) -> str:
    """Parameters with their kinds and defaults; annotations are left out, they change without consequence."""
    parts: list[str] = []
    before = None
    for parameter in function.parameters:
        kind = parameter.kind
        if before is griffe.ParameterKind.positional_only and kind is not before:
            parts.append("/")
        if kind is griffe.ParameterKind.keyword_only and before not in (kind, griffe.ParameterKind.var_positional):
            parts.append("*")
        before = kind
        if kind is griffe.ParameterKind.var_positional:
            parts.append(f"*{parameter.name}")
        elif kind is griffe.ParameterKind.var_keyword:
            parts.append(f"**{parameter.name}")
        else:
            parts.append(parameter.name if parameter.default is None else f"{parameter.name}={parameter.default}")
    if before is griffe.ParameterKind.positional_only:
        parts.append("/")
    return f"({', '.join(parts)})"


def _routes(node: griffe.Function) -> Iterator[tuple[str, str]]:
    """Routes that a function registers as `app.post(path, ...)(endpoint)`, with their options; a local name in an
    option stands for what it was given."""
    body = read_body(node)
    local = dict(bindings(body))
    for call in ast.walk(body):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Call) and isinstance(call.func.func, ast.Attribute):
            verb, path = call.func.func.attr, call.func.args[0] if call.func.args else None
            if verb in _VERBS and isinstance(path, ast.Constant) and isinstance(path.value, str) and call.args:
                endpoint = ast.unparse(call.args[0]).removeprefix("self.")
                options = [f"{option.arg or '**'}={_unnamed(option.value, local)}" for option in call.func.keywords]
                yield f"{verb.upper()} {path.value}", f"{endpoint} ({', '.join(options)})" if options else endpoint


def _unnamed(value: ast.expr, local: Mapping[str, ast.expr]) -> str:
    return ast.unparse(local.get(value.id, value) if isinstance(value, ast.Name) else value)
