"""Upstream packages as they lie on disk: in, folders of packages; out, versions and parsed modules. Contract ids: UP-*.

Nothing is imported, so no GPU is needed and no start-up code runs. A stub (`.pyi`) stands for compiled code.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import griffe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Installed:
    """The packages below `paths` (default: those of this interpreter); each module is read once."""

    def __init__(self, paths: Sequence[Path] | None = None) -> None:
        self.paths = tuple(Path(entry) for entry in sys.path if entry) if paths is None else tuple(paths)
        self._folders: dict[str, Path | None] = {}
        self._modules: dict[str, tuple[griffe.Module, ...]] = {}

    def folder(self, package: str) -> Path | None:
        """Folder of an import package, or None where it is not installed."""
        if package not in self._folders:
            found = (path / package for path in self.paths)
            self._folders[package] = next((path for path in found if (path / "__init__.py").is_file()), None)
        return self._folders[package]

    def version(self, distributions: Sequence[str]) -> tuple[str, str] | None:
        """Name and public version (no `+cpu`) of the first of these distributions that is installed."""
        for name in distributions:
            found = metadata.distributions(name=name, path=[str(path) for path in self.paths])
            for distribution in found:
                return name, distribution.version.partition("+")[0]
        return None

    def modules(self, dotted: str) -> tuple[griffe.Module, ...]:
        """The source and the stub of a module, in this order, as far as there are any."""
        if dotted not in self._modules:
            self._modules[dotted] = tuple(_parse(dotted, path) for path in self._files(dotted))
        return self._modules[dotted]

    def mentions(self, dotted: str, name: str) -> bool:
        """Whether a module can hand out the name: it spells it, or imports everything of another."""
        if dotted in self._modules:
            return True
        texts = [_text(path) for path in self._files(dotted)]
        return any(name in text or "import *" in text for text in texts)

    def sources(self, package: str) -> Iterator[tuple[str, Path]]:
        """Dotted name and file of every Python module of a package."""
        folder = self.folder(package)
        for path in sorted(folder.rglob("*.py")) if folder else ():
            parts = (package, *path.relative_to(folder or path).with_suffix("").parts)
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path

    def _files(self, dotted: str) -> Iterator[Path]:
        package, *rest = dotted.split(".")
        folder = self.folder(package)
        if folder is None:
            return
        base = folder.joinpath(*rest)
        for suffix in (".py", ".pyi"):
            for path in (base / f"__init__{suffix}", base.with_name(base.name + suffix)):
                if path.is_file():
                    yield path
                    break


def read_body(node: griffe.Function | griffe.Class | griffe.Attribute) -> ast.AST:
    """Syntax tree of a definition, without its docstring."""
    assert isinstance(node.filepath, Path)
    lines = node.filepath.read_text(encoding="utf-8").splitlines()
    text = textwrap.dedent("\n".join(lines[(node.lineno or 1) - 1 : node.endlineno]))
    definition = ast.parse(text).body[0]
    body = getattr(definition, "body", [])
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        del body[0]
    return definition


def _parse(dotted: str, path: Path) -> griffe.Module:
    """The module with its chain of parents, which relative imports are counted from."""
    *parents, name = dotted.split(".")
    folder = path.parent if path.stem == "__init__" else path.with_suffix("")
    parent: griffe.Module | None = None
    for depth, part in enumerate(parents):
        parent = griffe.Module(part, filepath=folder.parents[len(parents) - 1 - depth] / "__init__.py", parent=parent)
    return griffe.visit(name, filepath=path, code=_text(path), parent=parent)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
