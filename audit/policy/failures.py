"""Errors that disappear: broad handlers that do not raise, and tests that cannot fail. POLICY-003, POLICY-012."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from audit.policy.limits import Function, functions
from audit.policy.source import Violation, dotted_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from audit.policy.source import SourceFile

BROAD = {"Exception", "BaseException", "builtins.Exception", "builtins.BaseException"}
# (path, enclosing function) -> why going on is right there. A handler listed here still has to report what it caught.
BEST_EFFORT: dict[tuple[str, str], str] = {
    ("coordexp/losses/objective.py", "_measure"): "a diagnostics module is logged with its traceback and switched off",
}
ASSERTING_WORDS = ("assert", "raises", "warns", "fail", "check_", "expect_")


def is_broad(kind: ast.expr | None) -> bool:
    """Whether an `except` clause, or a tuple in it, catches everything."""
    if kind is None:
        return True
    if isinstance(kind, ast.Tuple):
        return any(is_broad(part) for part in kind.elts)
    return dotted_name(kind) in BROAD


def always_raises(body: Sequence[ast.stmt]) -> bool:
    """Whether every path through these statements ends in `raise`."""
    for statement in body:
        if isinstance(statement, ast.Raise):
            return True
        if isinstance(statement, ast.If) and always_raises(statement.body) and always_raises(statement.orelse):
            return True
        if isinstance(statement, ast.With) and always_raises(statement.body):
            return True
        if isinstance(statement, ast.Try) and always_raises(statement.finalbody):
            return True
    return False


def enclosing_functions(tree: ast.Module) -> dict[ast.AST, str]:
    """Each node -> the name of the innermost function around it."""
    owners: dict[ast.AST, str] = {}
    for function in functions(tree):
        for node in ast.walk(function):
            owners[node] = function.name
    return owners


def swallowed_errors(source: SourceFile) -> Iterator[Violation]:
    """Handlers of everything that may go on, and `contextlib.suppress` of everything."""
    owners = enclosing_functions(source.tree)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            swallows = is_broad(node.type) and not always_raises(node.body)
        elif isinstance(node, ast.Call) and dotted_name(node.func) in ("suppress", "contextlib.suppress"):
            swallows = any(is_broad(argument) for argument in node.args)
        else:
            continue
        if swallows and (source.path, owners.get(node, "")) not in BEST_EFFORT:
            yield Violation(source.path, node.lineno, "a broad handler that may go on: name the error, or raise")


def is_assertion(node: ast.AST) -> bool:
    """Whether a node can fail a test: an `assert` of something that varies, or a call such as pytest.raises."""
    if isinstance(node, ast.Assert):
        return not isinstance(node.test, ast.Constant)
    if isinstance(node, ast.Call):
        last = dotted_name(node.func).rpartition(".")[2]
        return last.lstrip("_").startswith(ASSERTING_WORDS)
    return False


def asserting_functions(tree: ast.Module) -> set[str]:
    """Names of a file's functions that assert, themselves or by calling one that does."""
    bodies = {function.name: list(ast.walk(function)) for function in functions(tree)}
    found = {name for name, nodes in bodies.items() if any(is_assertion(node) for node in nodes)}
    while True:
        more = {name for name, nodes in bodies.items() if name not in found and _calls_any(nodes, found)}
        if not more:
            return found
        found |= more


def _calls_any(nodes: list[ast.AST], names: set[str]) -> bool:
    return any(isinstance(node, ast.Call) and dotted_name(node.func) in names for node in nodes)


def tests_that_cannot_fail(source: SourceFile) -> Iterator[Violation]:
    """Test functions in which nothing is asserted."""
    if not source.path.rpartition("/")[2].startswith("test_"):
        return
    asserting = asserting_functions(source.tree)
    for node in ast.walk(source.tree):
        if isinstance(node, Function) and node.name.startswith("test_") and node.name not in asserting:
            yield Violation(source.path, node.lineno, f"{node.name} asserts nothing")
