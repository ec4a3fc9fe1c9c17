"""Who may say which name: import order, private names, empty names. POLICY-004, POLICY-005, POLICY-006."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from audit.policy.source import Violation, imported_names, resolved_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audit.policy.source import SourceFile

# A package imports only from those before it; docs/architecture.md has the same order.
READING_ORDER = (
    "spec", "bridges", "config", "geometry", "coords", "data", "coordjson", "encode", "rollout", "matching", "packing",
    "forward", "losses", "metrics", "evaluation", "artifacts", "training", "entrypoints",
)  # fmt: skip
FIRST_PARTY = ("coordexp", "audit", "benchmarks", "tests", "scripts")
GRAB_BAGS = {"utils", "util", "common", "commons", "helpers", "helper", "misc"}
# Underscored names that their owners document: named tuples, and the one place where transformers keeps its choice.
DOCUMENTED_NAMES = {"_replace", "_asdict", "_fields", "_make", "_attn_implementation"}


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import at any depth; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module or ''}.{alias.name}") for alias in node.names)


def package_of(dotted: str) -> str:
    """The package of the reading order that a dotted coordexp name belongs to, "" for others."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "coordexp" and parts[1] in READING_ORDER else ""


def upward_imports(source: SourceFile) -> Iterator[Violation]:
    """Imports from a package that comes later in the reading order, and of the audit by the runtime."""
    own = package_of(source.path.removesuffix(".py").replace("/", "."))
    for line, name in imports(source.tree):
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


def private_names(source: SourceFile) -> Iterator[Violation]:
    """Private names of this project's modules, imported or reached as attributes; in tests, of anything."""
    for line, name in imports(source.tree):
        if name.split(".")[0] in FIRST_PARTY and any(is_private(part) for part in name.split(".")):
            yield Violation(source.path, line, f"{name} is private to its module")
    origins = imported_names(source.tree)
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Attribute) or not is_private(node.attr):
            continue
        owner = resolved_name(node.value, origins)
        if owner.split(".")[0] in FIRST_PARTY or (source.is_test and owner not in ("self", "cls")):
            yield Violation(source.path, node.lineno, f"{node.attr} is private to its owner")


def grab_bags(source: SourceFile) -> Iterator[Violation]:
    """Packages and modules whose name says nothing about what they hold."""
    named = {part.removesuffix(".py") for part in source.path.split("/")} & GRAB_BAGS
    if named:
        yield Violation(source.path, 1, f"{', '.join(sorted(named))} says nothing: name the package after its concept")
