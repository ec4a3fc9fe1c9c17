"""Reads which tests claim which invariants from the source of `tests/`, without importing or collecting them.

In, a checkout; out, one `MarkedTest` per test function with an `invariant` marker (its own, its class's, its module's).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.symbols import parse_source
from audit.tier import TIERS, files_of

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
            marks = _pytestmark(tree.body).plus(_loose_marks(tree.body))
            found.extend(_tests_in(tree.body, path.relative_to(root).as_posix(), "", marks))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class TierTest:
    """A test function of a tier that needs more than a CPU, and what its skip markers say it needs."""

    node: str
    tier: str
    reason: str


def read_tier_tests(root: Path) -> tuple[TierTest, ...]:
    """Every test function of tests/<tier>/, with or without an invariant."""
    found = []
    for tier in TIERS:
        for path in files_of(root, tier):
            body = parse_source(path)[1].body
            shared = [node for node in body if _sets_pytestmark(node)]
            for node in body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
                    reasons = dict.fromkeys(text for part in (*shared, *node.decorator_list) for text in _reasons(part))
                    where = f"{path.relative_to(root).as_posix()}::{node.name}"
                    found.append(TierTest(where, tier, "; ".join(reasons) or "not part of the contracts tier"))
    return tuple(found)


def _reasons(part: ast.AST) -> Iterator[str]:
    """What the `reason` of each skip marker says, as it is written."""
    for node in ast.walk(part):
        if isinstance(node, ast.keyword) and node.arg == "reason":
            yield str(node.value.value) if isinstance(node.value, ast.Constant) else ast.unparse(node.value)


def files_for(root: Path, invariant_id: str) -> tuple[str, ...]:
    """Test files that can hold tests of the invariant: those that name it, and those whose computed markers may.

    A file with computed markers counts when it mentions the id's prefix; where nothing names the id, each of them.
    """
    tests = read_marked_tests(root)
    computed = dict.fromkeys(test.file for test in tests if test.computed)
    prefix = invariant_id.split("-", 1)[0] + "-"
    mentioned = [file for file in computed if prefix in parse_source(root / file)[0]]
    literal = [test.file for test in tests if invariant_id in test.invariants]
    return tuple(dict.fromkeys([*literal, *mentioned] or computed))


def _tests_in(body: list[ast.stmt], file: str, prefix: str, outer: _Marks) -> Iterator[MarkedTest]:
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            marks = outer.plus(_marks_in(node.decorator_list)).plus(_pytestmark(node.body))
            yield from _tests_in(node.body, file, f"{prefix}{node.name}::", marks)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            marks = outer.plus(_marks_in(node.decorator_list))
            if marks.ids or marks.computed:
                yield MarkedTest(f"{file}::{prefix}{node.name}", file, node.lineno, marks.ids, marks.computed)


def _loose_marks(body: list[ast.stmt]) -> _Marks:
    """Markers that module-level data or a function other than a test makes: any test of the module may carry them."""
    loose = [node for node in body if not _is_test(node) and not _sets_pytestmark(node)]
    calls = [node for statement in loose for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return _Marks(
        computed=any(isinstance(call.func, ast.Attribute) and call.func.attr == "invariant" for call in calls)
    )


def _is_test(node: ast.stmt) -> bool:
    named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")
    return named or (isinstance(node, ast.ClassDef) and node.name.startswith("Test"))


def _sets_pytestmark(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets)


def _pytestmark(body: list[ast.stmt]) -> _Marks:
    marks = _Marks()
    for node in body:
        if isinstance(node, ast.Assign) and _sets_pytestmark(node):
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
