"""Size limits: lines, branches, parameters. A `SourceFile` in, violations out. POLICY-001, POLICY-002."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from audit.policy.source import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audit.policy.source import SourceFile

MODULE_LINES = 400
FUNCTION_LINES = 60
CLASS_LINES = 200
COMPLEXITY = 12
PARAMETERS = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef
# One more path through a function for each of these, as McCabe counts them.
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def line_count(node: Function | ast.ClassDef) -> int:
    """Lines of a definition, its docstring included, its decorators not."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def long_modules(source: SourceFile) -> Iterator[Violation]:
    """Modules over MODULE_LINES lines."""
    lines = len(source.text.splitlines())
    if lines > MODULE_LINES:
        yield Violation(
            source.path, 1, f"the module has {lines} lines, {MODULE_LINES} are allowed: split it by concept"
        )


def long_definitions(source: SourceFile) -> Iterator[Violation]:
    """Functions over FUNCTION_LINES and classes over CLASS_LINES lines."""
    for node in ast.walk(source.tree):
        if isinstance(node, Function) and line_count(node) > FUNCTION_LINES:
            yield Violation(
                source.path, node.lineno, f"{node.name} has {line_count(node)} lines, {FUNCTION_LINES} are allowed"
            )
        elif isinstance(node, ast.ClassDef) and line_count(node) > CLASS_LINES:
            yield Violation(
                source.path, node.lineno, f"class {node.name} has {line_count(node)} lines, {CLASS_LINES} are allowed"
            )


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """What a function holds, without what its nested functions hold."""
    queue: list[ast.AST] = list(function.body)
    while queue:
        node = queue.pop()
        yield node
        if not isinstance(node, Function | ast.Lambda):
            queue.extend(ast.iter_child_nodes(node))


def complexity(function: Function) -> int:
    """Number of linearly independent paths through a function's own statements."""
    return 1 + sum(isinstance(node, BRANCHES) for node in own_nodes(function))


def branchy_functions(source: SourceFile) -> Iterator[Violation]:
    """Functions over COMPLEXITY paths."""
    for function in functions(source.tree):
        paths = complexity(function)
        if paths > COMPLEXITY:
            yield Violation(
                source.path, function.lineno, f"{function.name} has complexity {paths}, {COMPLEXITY} is allowed"
            )


def parameter_count(function: Function) -> int:
    """Named parameters, without `self` and `cls`."""
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def crowded_signatures(source: SourceFile) -> Iterator[Violation]:
    """Functions over PARAMETERS parameters; tests are exempt, for their fixtures arrive that way."""
    for function in functions(source.tree):
        count = parameter_count(function)
        if count > PARAMETERS and not source.is_test:
            yield Violation(
                source.path, function.lineno, f"{function.name} takes {count} parameters, {PARAMETERS} are allowed"
            )
