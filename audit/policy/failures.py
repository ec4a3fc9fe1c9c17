"""Errors that disappear: broad handlers that do not raise, and tests that cannot fail. POLICY-003, POLICY-012."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from audit.policy.limits import Function, functions
from audit.policy.source import Violation, bindings, dotted_name, enclosing_functions, known_names, resolved_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from audit.policy.source import SourceFile

BROAD = {"Exception", "BaseException", "builtins.Exception", "builtins.BaseException"}
# (path, enclosing function) -> why going on is right there. A handler listed here still has to report what it caught.
BEST_EFFORT: dict[tuple[str, str], str] = {
    ("coordexp/losses/objective.py", "_measure"): "a diagnostics module is logged with its traceback and switched off",
}
EXITS = {"__exit__", "__aexit__"}
ASSERTING_WORDS = ("assert", "raises", "warns", "fail", "check_", "expect_")


def is_broad(kind: ast.expr | None, origins: dict[str, str], bound: dict[str, ast.expr]) -> bool:
    """Whether an `except` clause catches everything: itself, in a tuple, by another name; what is computed counts."""
    if kind is None:
        return True
    if isinstance(kind, ast.Tuple | ast.List | ast.Set):
        return any(is_broad(part, origins, bound) for part in kind.elts)
    if isinstance(kind, ast.Starred):
        return is_broad(kind.value, origins, bound)
    name = resolved_name(kind, origins)
    if not name:
        return True
    if isinstance(kind, ast.Name) and isinstance(bound.get(kind.id), ast.Tuple | ast.List | ast.Set):
        return is_broad(bound[kind.id], origins, {})
    return name in BROAD


def always_raises(body: Sequence[ast.stmt], origins: dict[str, str]) -> bool:
    """Whether every path through these statements ends in `raise`."""
    for statement in body:
        if isinstance(statement, ast.Raise):
            return True
        if leaves(statement):
            return False
        if isinstance(statement, ast.If) and all(always_raises(b, origins) for b in (statement.body, statement.orelse)):
            return True
        if isinstance(statement, ast.With) and always_raises(statement.body, origins):
            return not any(is_suppression(item.context_expr, origins) for item in statement.items)
        if isinstance(statement, ast.Try) and always_raises(statement.finalbody, origins):
            return True
    return False


def leaves(statement: ast.AST, loops: bool = False) -> bool:
    """Whether a statement may end its block by return, break or continue; `loops` when inside a loop of its own."""
    if isinstance(statement, ast.Return):
        return True
    if isinstance(statement, ast.Break | ast.Continue):
        return not loops
    if isinstance(statement, Function | ast.ClassDef | ast.Lambda):
        return False
    loops = loops or isinstance(statement, ast.For | ast.AsyncFor | ast.While)
    return any(leaves(child, loops) for child in ast.iter_child_nodes(statement))


def is_suppression(node: ast.AST, origins: dict[str, str]) -> bool:
    """Whether a node is a call of contextlib.suppress."""
    return isinstance(node, ast.Call) and resolved_name(node.func, origins) in ("suppress", "contextlib.suppress")


def swallowed_errors(source: SourceFile) -> Iterator[Violation]:
    """Where any error may disappear: broad handlers and suppressions, jumps out of `finally`, exits that say True."""
    owners, origins = enclosing_functions(source.tree), known_names(source)
    bound = dict(bindings(source.tree))
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            swallows = is_broad(node.type, origins, bound) and not always_raises(node.body, origins)
        elif isinstance(node, ast.Call) and is_suppression(node, origins):
            swallows = any(is_broad(argument, origins, bound) for argument in node.args)
        elif isinstance(node, ast.Try | ast.TryStar):
            swallows = any(leaves(statement) for statement in node.finalbody)
        else:
            swallows = isinstance(node, Function) and node.name in EXITS and says_handled(node)
        if swallows and (source.path, owners.get(node, "")) not in BEST_EFFORT:
            line = node.finalbody[0].lineno if isinstance(node, ast.Try | ast.TryStar) else getattr(node, "lineno", 1)
            yield Violation(source.path, line, "any error may disappear here: name the error, or raise")


def says_handled(function: Function) -> bool:
    """Whether an `__exit__` may return something true, which swallows what was raised."""
    returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value is not None]
    return any(not isinstance(value, ast.Constant) or bool(value.value) for value in returned)


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
