"""Project classes that derive from upstream's: in, parsed modules; out, what they override, call and read of
their bases.

A method of such a class replaces upstream's of the same name, and `self.x` may be upstream's: both are part of the
contract although no import spells them. Contract ids: UP-*.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from audit.policy.source import SourceFile, dotted_name, imported_names
from audit.upstream.uses import Use


@dataclass(frozen=True, slots=True)
class ProjectClass:
    """A class statement, and the dotted names of its bases."""

    node: ast.ClassDef
    file: str
    bases: tuple[str, ...]


def find_inherited_uses(sources: Collection[SourceFile], packages: Collection[str]) -> list[Use]:
    """Uses of names that an upstream base may define; `sure` is False for each, the package decides."""
    classes = _project_classes(sources)
    found = []
    for own in classes.values():
        for base in dict.fromkeys(_upstream_bases(own, classes, set(packages), set())):
            found += [Use(f"{base}.{name}", own.file, line, how, sure=False) for name, line, how in _members(own.node)]
    return sorted(set(found))


def _project_classes(sources: Collection[SourceFile]) -> dict[str, ProjectClass]:
    classes = {}
    for source in sources:
        found = [node for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef)]
        if not any(node.bases for node in found):
            continue
        module = ".".join(PurePosixPath(source.path).with_suffix("").parts).removesuffix(".__init__")
        names = imported_names(source.tree) | {node.name: f"{module}.{node.name}" for node in found}
        for node in found:
            bases = tuple(_dotted(base, names) for base in node.bases)
            classes[f"{module}.{node.name}"] = ProjectClass(node, source.path, bases)
    return classes


def _dotted(base: ast.expr, names: Mapping[str, str]) -> str:
    name = dotted_name(base.value if isinstance(base, ast.Subscript) else base)
    head, _, rest = name.partition(".")
    origin = names.get(head, head)
    return f"{origin}.{rest}" if rest else origin


def _upstream_bases(
    own: ProjectClass, classes: Mapping[str, ProjectClass], packages: set[str], seen: set[str]
) -> Iterator[str]:
    for base in own.bases:
        if base.split(".")[0] in packages:
            yield base
        elif base in classes and base not in seen:
            yield from _upstream_bases(classes[base], classes, packages, {*seen, base})


def _members(node: ast.ClassDef) -> Iterator[tuple[str, int, str]]:
    """Names that the class body binds, and those its methods take from `self` and `super()`."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement.name, statement.lineno, "overrides it"
            yield from _taken(statement)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, statement.lineno, "overrides it"


def _taken(method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, int, str]]:
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                yield node.attr, node.lineno, "takes it from self"
            elif isinstance(node.value, ast.Call) and dotted_name(node.value.func) == "super":
                yield node.attr, node.lineno, "calls it on super()"
