"""Who may say which name: import order, private names, empty names. POLICY-004, POLICY-005, POLICY-006."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from audit.policy.source import (
    IMPORTERS,
    Violation,
    dotted_name,
    imported_module,
    known_names,
    resolved_name,
    string_constants,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audit.policy.source import SourceFile

# A package imports only from those before it; docs/architecture.md has the same order.
READING_ORDER = (
    "spec", "bridges", "config", "geometry", "coords", "data", "coordjson", "encode", "rollout", "matching", "packing",
    "forward", "losses", "metrics", "evaluation", "artifacts", "training", "demo", "entrypoints",
)  # fmt: skip
FIRST_PARTY = ("coordexp", "audit", "benchmarks", "tests", "scripts")
GRAB_BAGS = {"utils", "util", "common", "commons", "helpers", "helper", "misc"}
REACHERS = {"getattr", "setattr", "hasattr", "delattr", "object.__getattribute__", "object.__setattr__"}
# Methods of monkeypatch and mock that set or delete an attribute of their first argument, or one at a dotted path.
PATCHERS = {"setattr", "delattr", "object", "patch"}
# Underscored names that their owners document: named tuples, and the one place where transformers keeps its choice.
DOCUMENTED_NAMES = {"_replace", "_asdict", "_fields", "_make", "_attn_implementation"}


def imports(source: SourceFile) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import at any depth, by name too; `from a import b` gives `a.b`."""
    origins = known_names(source)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = imported_module(node, source.path)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and resolved_name(node.func, origins) in IMPORTERS:
            named = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "name"), node]
            yield node.lineno, text_of(named[0])
            listed = [keyword.value for keyword in node.keywords if keyword.arg == "fromlist"]
            for part in listed[0].elts if listed and isinstance(listed[0], ast.List | ast.Tuple) else []:
                yield node.lineno, f"{text_of(named[0])}.{text_of(part)}"


def package_of(dotted: str) -> str:
    """The package of the reading order that a dotted coordexp name belongs to, "" for others."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "coordexp" and parts[1] in READING_ORDER else ""


def upward_imports(source: SourceFile) -> Iterator[Violation]:
    """Imports from a package that comes later in the reading order, and of the audit by the runtime."""
    own = package_of(source.path.removesuffix(".py").replace("/", "."))
    for line, name in imports(source):
        theirs = package_of(name)
        if own and theirs and READING_ORDER.index(theirs) > READING_ORDER.index(own):
            yield Violation(
                source.path, line, f"{own} comes before {theirs} in the reading order and may not import it"
            )
        if source.path.startswith("coordexp/") and name.split(".")[0] in ("audit", "tests", "benchmarks"):
            yield Violation(source.path, line, f"the runtime may not import {name}")


def is_private(name: str) -> bool:
    """Whether a name begins with an underscore and is neither a dunder nor one that its owner documents."""
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED_NAMES and name != "_"


def private_definitions(source: SourceFile) -> frozenset[str]:
    """The private functions, classes, variables and attributes that a module makes."""
    found: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return frozenset(name for name in found if is_private(name))


def private_names(source: SourceFile, others: frozenset[str] = frozenset()) -> Iterator[Violation]:
    """Private names of this project's modules, imported or reached; in tests, of anything.

    `others` are the private names that any module of the project makes; one that this module makes too is its own.
    """
    for line, name in imports(source):
        if name.split(".")[0] in FIRST_PARTY and any(is_private(part) for part in name.split(".")):
            yield Violation(source.path, line, f"{name} is private to its module: use, or make, a public name")
    origins, own = known_names(source), private_definitions(source)
    foreign, constants = others - own, string_constants(source.tree)
    for node in ast.walk(source.tree):
        line = getattr(node, "lineno", 1)
        for attribute, owner in reached(node, origins, constants):
            if source.is_test and attribute == "__new__" and owner != "super":
                yield Violation(source.path, line, "__new__ makes what no constructor makes: build the object")
            if not is_private(attribute) or owner in ("self", "cls"):
                continue
            if source.is_test or owner.split(".")[0] in FIRST_PARTY or attribute in foreign:
                yield Violation(source.path, line, f"{attribute} is private to its owner: use, or make, a public name")


def reached(node: ast.AST, origins: dict[str, str], constants: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The attributes that a node reaches for, in whatever way, each with the resolved name of its owner."""
    if isinstance(node, ast.Attribute):
        made_by = node.value.func if isinstance(node.value, ast.Call) else node.value
        yield node.attr, resolved_name(node.value, origins) or resolved_name(made_by, origins)
    elif isinstance(node, ast.Subscript):
        owner = resolved_name(node.value, origins)
        if owner.endswith(".__dict__"):
            yield text_of(node.slice), owner.removesuffix(".__dict__")
    elif isinstance(node, ast.Call):
        yield from reached_by_call(node, origins, constants)


def reached_by_call(node: ast.Call, origins: dict[str, str], constants: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The attributes that a call names: of `getattr`, of attrgetter, of monkeypatch's and mock's methods."""
    function = resolved_name(node.func, origins)
    last = node.func.attr if isinstance(node.func, ast.Attribute) else function.rpartition(".")[2]
    given = [
        *node.args,
        *(keyword.value for keyword in node.keywords if keyword.arg in ("target", "name", "attribute")),
    ]
    texts = [text_of(part) or constants.get(dotted_name(part), "") for part in given]
    if (function in REACHERS or last in PATCHERS) and len(given) > 1 and not texts[0]:
        yield texts[1], resolved_name(given[0], origins)
    elif (last in PATCHERS and texts) or function in ("operator.attrgetter", "operator.methodcaller"):
        parts = texts[0].split(".") if texts else []
        yield from ((part, ".".join(parts[:at])) for at, part in enumerate(parts))
    elif last == "multiple":
        yield from ((keyword.arg or "", "") for keyword in node.keywords)


def grab_bags(source: SourceFile) -> Iterator[Violation]:
    """Packages and modules whose name says nothing about what they hold."""
    named = {part.removesuffix(".py") for part in source.path.split("/")} & GRAB_BAGS
    if named:
        yield Violation(source.path, 1, f"{', '.join(sorted(named))} says nothing: name the package after its concept")
