"""Python files of a checkout as syntax trees, and the violation type. Folders in, `SourceFile`s out. POLICY-001."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SKIPPED_PARTS = {"__pycache__", ".venv", "output", "mutants"}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One parsed module; `path` is relative to the checkout, with forward slashes."""

    path: str
    text: str
    tree: ast.Module

    @property
    def is_test(self) -> bool:
        """Whether the file lies below tests/."""
        return self.path.startswith("tests/")


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """One breach of a rule; prints as `path:line message`."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.message}"


def parse_source(path: str, text: str) -> SourceFile:
    """A module from its text; raises SyntaxError."""
    return SourceFile(path=path, text=text, tree=ast.parse(text, filename=path))


def read_sources(root: Path, folders: Sequence[str]) -> list[SourceFile]:
    """Every Python file below the folders. Raises FileNotFoundError for none: a scan of nothing would pass."""
    found = [
        parse_source(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
        for folder in folders
        for path in sorted((root / folder).rglob("*.py"))
        if not SKIPPED_PARTS & set(path.relative_to(root).parts)
    ]
    if not found:
        raise FileNotFoundError(f"no Python file below {', '.join(folders)} in {root}")
    return found


def dotted_name(node: ast.AST) -> str:
    """`a.b.c` for a chain of names and attributes, "" for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted_name(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, dotted_name(node.func)


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Local name -> dotted origin, for every import statement at any depth."""
    origins: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                origins[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                origins[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return origins


def resolved_name(node: ast.AST, origins: dict[str, str]) -> str:
    """The dotted name of an expression with its first part replaced by where it was imported from."""
    head, _, rest = dotted_name(node).partition(".")
    origin = origins.get(head, head)
    return f"{origin}.{rest}" if rest else origin


def string_constants(tree: ast.Module) -> dict[str, str]:
    """Module-level names that are bound to a string literal."""
    constants: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            constants.update({t.id: node.value.value for t in node.targets if isinstance(t, ast.Name)})
    return constants
