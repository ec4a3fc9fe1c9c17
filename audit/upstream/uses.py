"""Where the project touches upstream: in, a checkout; out, each dotted upstream name with file and line.

Imports at any depth, names looked up by literal strings (`import_module("swift.template")`, `getattr(torch, "long")`),
attribute chains behind them (`F.cross_entropy`), and, for classes that derive from upstream's,
what they override, call and read of it (`audit.upstream.heirs`). Contract ids: UP-*.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.policy.source import SourceFile, bindings, dotted_name, imported_names, read_sources, resolved_name

if TYPE_CHECKING:
    from pathlib import Path

_NAMING = (ast.Attribute, ast.Name, ast.Call, ast.Subscript)
_GETATTR = 2  # arguments without a default
FOLDERS = ("coordexp", "audit", "benchmarks", "scripts")


@dataclass(frozen=True, slots=True, order=True)
class Use:
    """One place that touches an upstream name; `keywords` are those that a call there passes.

    `sure` is False where only the upstream package tells whether the name is its own (methods of deriving classes).
    """

    symbol: str
    file: str
    line: int
    how: str = "uses it"
    keywords: tuple[str, ...] = ()
    sure: bool = True

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.how}"


def read_project(root: Path, folders: Collection[str] = FOLDERS) -> list[SourceFile]:
    """The project's own modules, of the folders that exist."""
    return read_sources(root, [folder for folder in folders if (root / folder).is_dir()])


def find_uses(sources: Collection[SourceFile], packages: Collection[str]) -> list[Use]:
    """Every place that imports or names something of the packages, first places first.

    One for each line, or one for each call there that passes keywords.
    """
    found: dict[tuple[str, str, int], list[Use]] = {}
    for source in sources:
        for use in _uses_in(source, set(packages)):
            found.setdefault((use.symbol, use.file, use.line), []).append(use)
    kept = ({use for use in uses if use.keywords} or uses[:1] for uses in found.values())
    return sorted(use for uses in kept for use in uses)


def _uses_in(source: SourceFile, packages: set[str]) -> Iterator[Use]:
    if not any(package in source.text for package in packages):
        return
    origins = _origins(source.tree, packages)
    inner: set[int] = set()
    keywords: dict[int, tuple[str, ...]] = {}
    for node in ast.walk(source.tree):  # a parent comes before its parts
        yield from _imports(node, source.path, packages)
        if isinstance(node, ast.Call):
            keywords[id(node.func)] = tuple(keyword.arg for keyword in node.keywords if keyword.arg is not None)
        if isinstance(node, _NAMING) and id(node) not in inner:
            symbol = resolved_name(node, origins)
            if "." in symbol and symbol.split(".")[0] in packages:
                how = "calls it" if id(node) in keywords else "uses it"
                sure = not _has_default(node)
                yield Use(symbol, source.path, node.lineno, how, keywords.get(id(node), ()), sure)
                inner |= {id(part) for part in _taken_up(node)}


def _origins(tree: ast.Module, packages: set[str]) -> dict[str, str]:
    """Local name -> dotted origin; "" for names that only look like a package.

    A name that is given a module or a member which literal strings look up counts as imported.
    """
    origins = dict.fromkeys(packages, "") | imported_names(tree) | dict.fromkeys(_relative_names(tree), "")
    for name, value in bindings(tree):
        found = resolved_name(value, origins) if isinstance(value, ast.Call | ast.Subscript) else ""
        if found.split(".")[0] in packages and not origins.get(name):
            origins[name] = found
    return origins


def _taken_up(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of an expression that its dotted name consists of; the default of a `getattr` is none."""
    if isinstance(node, ast.Attribute | ast.Subscript):
        parts = [node.value]
    else:
        parts = [node.func, *node.args[:1]] if isinstance(node, ast.Call) else []
    for part in parts:
        yield part
        yield from _taken_up(part)


def _has_default(node: ast.AST) -> bool:
    """Whether a `getattr` in it says what to take where the name is missing."""
    looked_up = (part for part in (node, *_taken_up(node)) if isinstance(part, ast.Call))
    return any(dotted_name(part.func).endswith("getattr") and len(part.args) > _GETATTR for part in looked_up)


def _imports(node: ast.AST, path: str, packages: set[str]) -> Iterator[Use]:
    """An import statement names what it binds; `import torch` alone names nothing yet."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names if "." in alias.name]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names:
        if name.split(".")[0] in packages and isinstance(node, ast.stmt):
            yield Use(name, path, node.lineno, "imports it")


def _relative_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from (alias.asname or alias.name for alias in node.names)
