"""Finds evidence symbols without importing anything: in, `package.module:Class.method`; out, file, lines and source.

A name counts where it is defined (function, class, assignment), not where it is only imported.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class UnknownSymbolError(Exception):
    """An evidence symbol that no file defines; the text says what is missing and what stands nearest."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a symbol is defined: `file` relative to the root, first and last line (1-based), and the code between."""

    symbol: str
    file: str
    line: int
    last_line: int
    code: str

    @property
    def where(self) -> str:
        """`file:line`, as editors open it."""
        return f"{self.file}:{self.line}"


def find_symbol(root: Path, symbol: str) -> Place:
    """Place of `module:qualified_name`. Raises `UnknownSymbolError` when the module or the name is not there."""
    module, _, qualified = symbol.partition(":")
    path = module_path(root, module)
    if path is None:
        raise UnknownSymbolError(f"{symbol}: no module {module} under {root}")
    source, tree = parse_source(path)
    body: list[ast.stmt] = tree.body
    node: ast.stmt | None = None
    for name in qualified.split("."):
        node = _defined(body, name)
        if node is None:
            raise UnknownSymbolError(
                f"{symbol}: {path.relative_to(root)} defines no {name!r}{_imported_from(tree, name)}"
            )
        body = node.body if isinstance(node, _DEFINITIONS) else []
    assert node is not None
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    last = node.end_lineno or node.lineno
    code = "\n".join(source.splitlines()[first - 1 : last])
    return Place(symbol, path.relative_to(root).as_posix(), node.lineno, last, code)


def module_path(root: Path, module: str) -> Path | None:
    """File of a dotted module name under `root`, or None."""
    base = root.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def parse_source(path: Path) -> tuple[str, ast.Module]:
    """Text and syntax tree of a Python file; parsed once per version of the file."""
    status = path.stat()
    return _parse(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _parse(path: Path, mtime: int, size: int) -> tuple[str, ast.Module]:
    text = path.read_text(encoding="utf-8")
    return text, ast.parse(text, filename=str(path))


def _defined(body: list[ast.stmt], name: str) -> ast.stmt | None:
    for node in body:
        if isinstance(node, _DEFINITIONS) and node.name == name:
            return node
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in _targets(node):
            return node
        if isinstance(node, ast.If | ast.Try):
            inner = _defined([*node.body, *node.orelse], name)
            if inner is not None:
                return inner
    return None


def _targets(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def _imported_from(tree: ast.Module, name: str) -> str:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            return f" (it is imported there: name {node.module}:{name})"
    return ""
