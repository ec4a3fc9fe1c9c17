"""Where the project touches upstream: in, a checkout; out, each dotted upstream name with file and line.

Imports at any depth, attribute chains behind them (`F.cross_entropy`), and, for classes that derive from upstream's,
what they override, call and read of it (`audit.upstream.heirs`). Contract ids: UP-*.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.policy.source import SourceFile, dotted_name, imported_names, read_sources, resolved_name

if TYPE_CHECKING:
    from pathlib import Path

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
    origins = {name: origin for name, origin in imported_names(source.tree).items() if origin.split(".")[0] in packages}
    if not origins:
        return
    for name in _relative_names(source.tree):
        origins.pop(name, None)
    inner: set[int] = set()
    keywords: dict[int, tuple[str, ...]] = {}
    for node in ast.walk(source.tree):  # a parent comes before its parts
        yield from _imports(node, source.path, packages)
        if isinstance(node, ast.Call):
            keywords[id(node.func)] = tuple(keyword.arg for keyword in node.keywords if keyword.arg is not None)
        elif isinstance(node, ast.Attribute | ast.Name) and id(node) not in inner:
            inner |= {id(node.value)} if isinstance(node, ast.Attribute) else set()
            chain = dotted_name(node)
            symbol = resolved_name(node, origins)
            if chain.split(".")[0] in origins and "." in symbol:
                how = "calls it" if id(node) in keywords else "uses it"
                yield Use(symbol, source.path, node.lineno, how, keywords.get(id(node), ()))
                inner |= {id(part) for part in ast.walk(node)}


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
