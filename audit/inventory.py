"""Reads which tests claim which invariants from the source of `tests/`, without importing or collecting them.

In, a checkout; out, one `MarkedTest` per test function with an `invariant` marker (its own, its class's, its module's).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.symbols import parse_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class MarkedTest:
    """A test function: pytest node id without parameters, place, the invariants it names.

    `computed` says that a marker's arguments are no literals (case files name them), so only a run tells which.
    """

    node: str
    file: str
    line: int
    invariants: tuple[str, ...]
    computed: bool


@dataclass(frozen=True, slots=True)
class _Marks:
    ids: tuple[str, ...] = ()
    computed: bool = False

    def plus(self, other: _Marks) -> _Marks:
        return _Marks(tuple(dict.fromkeys((*self.ids, *other.ids))), self.computed or other.computed)


def read_marked_tests(root: Path) -> tuple[MarkedTest, ...]:
    """Every test function under `tests/` with an invariant marker, in the order of files and lines."""
    found: list[MarkedTest] = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        text, tree = parse_source(path)
        if "invariant" in text:
            found.extend(_tests_in(tree.body, path.relative_to(root).as_posix(), "", _module_marks(tree)))
    return tuple(found)


def files_for(root: Path, invariant_id: str) -> tuple[str, ...]:
    """Test files that can hold tests of the invariant: those that name it and those whose markers are computed."""
    tests = read_marked_tests(root)
    return tuple(dict.fromkeys(test.file for test in tests if invariant_id in test.invariants or test.computed))


def _tests_in(body: list[ast.stmt], file: str, prefix: str, outer: _Marks) -> Iterator[MarkedTest]:
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            marks = outer.plus(_marks_in(node.decorator_list)).plus(_pytestmark(node.body))
            yield from _tests_in(node.body, file, f"{prefix}{node.name}::", marks)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            marks = outer.plus(_marks_in(node.decorator_list))
            if marks.ids or marks.computed:
                yield MarkedTest(f"{file}::{prefix}{node.name}", file, node.lineno, marks.ids, marks.computed)


def _module_marks(tree: ast.Module) -> _Marks:
    return _pytestmark(tree.body)


def _pytestmark(body: list[ast.stmt]) -> _Marks:
    marks = _Marks()
    for node in body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets):
            marks = marks.plus(_marks_in([node.value]))
    return marks


def _marks_in(expressions: list[ast.expr]) -> _Marks:
    marks = _Marks()
    for expression in expressions:
        for call in ast.walk(expression):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "invariant":
                literal = [
                    arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
                ]
                marks = marks.plus(_Marks(tuple(literal), computed=len(literal) < len(call.args)))
    return marks
