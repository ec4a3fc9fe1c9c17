"""Errors that disappear: broad handlers that do not raise, and tests that cannot fail. POLICY-003, POLICY-012."""

from __future__ import annotations

import ast
import builtins
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.policy.limits import Function, functions
from audit.policy.source import (
    Violation,
    bound_values,
    dotted_name,
    enclosing_functions,
    imported_names,
    known_names,
    module_name,
    resolved_name,
    text_of,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from audit.policy.source import SourceFile

BROAD = {"Exception", "BaseException", "builtins.Exception", "builtins.BaseException"}
# (path, enclosing function) -> why going on is right there. A handler listed here still has to report what it caught.
BEST_EFFORT: dict[tuple[str, str], str] = {
    ("coordexp/losses/objective.py", "_measure"): "a diagnostics module is logged with its traceback and switched off",
}
EXITS = {"__exit__", "__aexit__"}
PUSHES = {"push", "push_async_exit"}
QUIET = {"StopIteration", "StopAsyncIteration", "GeneratorExit"}
HOPS = 4
ASSERTING_WORDS = ("assert", "raises", "warns", "fail", "check_", "expect_")


@dataclass(frozen=True, slots=True)
class Kinds:
    """What the names of a module may stand for in an `except` clause."""

    origins: dict[str, str]
    bound: dict[str, list[ast.expr]]
    """Each name with every expression that it is bound to."""
    classes: frozenset[str]
    given: frozenset[str]
    """Parameters: whoever calls says what they are."""
    imported: frozenset[str]
    elsewhere: frozenset[str] = frozenset()
    """Dotted names of other modules that catch everything."""


def kinds_of(source: SourceFile, elsewhere: frozenset[str] = frozenset()) -> Kinds:
    """The names of a module; `elsewhere` are the names by which other modules catch everything."""
    nodes = list(ast.walk(source.tree))
    return Kinds(
        origins=known_names(source),
        bound=bound_values(source.tree),
        classes=frozenset(node.name for node in nodes if isinstance(node, ast.ClassDef)),
        given=frozenset(node.arg for node in nodes if isinstance(node, ast.arg)),
        imported=frozenset(imported_names(source.tree, source.path)),
        elsewhere=elsewhere,
    )


def broad_names(sources: Iterable[SourceFile]) -> frozenset[str]:
    """Dotted names that, imported from one of the modules, would catch everything, re-exported ones too."""
    found: set[str] = set()
    sources = list(sources)
    for _ in range(HOPS):
        for source in sources:
            kinds, module = kinds_of(source, frozenset(found)), module_name(source.path)
            found |= {f"{module}.{n}" for n, values in kinds.bound.items() if any(is_broad(v, kinds) for v in values)}
            exported = imported_names(source.tree, source.path).items()
            found |= {f"{module}.{name}" for name, origin in exported if origin in found | BROAD}
    return frozenset(found)


def is_broad(kind: ast.expr | None, kinds: Kinds, hops: int = HOPS) -> bool:
    """Whether an `except` clause may catch everything. What is no class that can be told, and no tuple of such, may."""
    if kind is None:
        return True
    if isinstance(kind, ast.Tuple | ast.List | ast.Set):
        return any(is_broad(part, kinds, hops) for part in kind.elts)
    if isinstance(kind, ast.Starred):
        return is_broad(kind.value, kinds, hops)
    if isinstance(kind, ast.BinOp) and isinstance(kind.op, ast.Add):
        return is_broad(kind.left, kinds, hops) or is_broad(kind.right, kinds, hops)
    name = resolved_name(kind, kinds.origins)
    if not name or not hops:
        return True
    if isinstance(kind, ast.Name) and kind.id in kinds.bound:
        return kind.id in kinds.given or any(is_broad(value, kinds, hops - 1) for value in kinds.bound[kind.id])
    return name in BROAD | kinds.elsewhere or not is_told(kind, kinds)


def is_told(kind: ast.expr, kinds: Kinds) -> bool:
    """Whether a name is that of a class: of this module, imported, of an imported module, or builtin."""
    first, _, last = dotted_name(kind).partition(".")
    if first in kinds.given:
        return False
    if last.rpartition(".")[2] in kinds.bound and first not in kinds.imported:
        return False
    if first in kinds.classes | kinds.imported:
        return True
    return not last and isinstance(getattr(builtins, first, None), type)


def always_raises(body: Sequence[ast.stmt], kinds: Kinds) -> bool:
    """Whether every path through these statements ends in a `raise` that says something went wrong."""
    for statement in body:
        if isinstance(statement, ast.Raise):
            return not is_quiet(statement.exc, kinds)
        if leaves(statement):
            return False
        if isinstance(statement, ast.If) and all(always_raises(b, kinds) for b in (statement.body, statement.orelse)):
            return True
        if isinstance(statement, ast.With) and always_raises(statement.body, kinds):
            return not any(is_suppression(item.context_expr, kinds.origins) for item in statement.items)
        if isinstance(statement, ast.Try) and always_raises(statement.finalbody, kinds):
            return True
    return False


def is_quiet(raised: ast.expr | None, kinds: Kinds) -> bool:
    """Whether what is raised may end a process or a loop as if all were well."""
    if isinstance(raised, ast.Name) and raised.id in kinds.bound:
        return any(is_quiet(value, kinds) for value in kinds.bound[raised.id] if not isinstance(value, ast.Name))
    called = raised.func if isinstance(raised, ast.Call) else raised
    name = resolved_name(called, kinds.origins).removeprefix("builtins.") if called is not None else ""
    if name != "SystemExit":
        return name in QUIET
    told = raised.args[0] if isinstance(raised, ast.Call) and raised.args else None
    return not (isinstance(told, ast.JoinedStr) or (isinstance(told, ast.Constant) and bool(told.value)))


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


def swallowed_errors(source: SourceFile, elsewhere: frozenset[str] = frozenset()) -> Iterator[Violation]:
    """Where any error may disappear: broad handlers and suppressions, jumps out of `finally`, exits that say True.

    `elsewhere` are the names by which other modules catch everything.
    """
    owners, kinds = enclosing_functions(source.tree), kinds_of(source, elsewhere)
    quiet = {function.name for function in functions(source.tree) if says_handled(function)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            swallows = is_broad(node.type, kinds) and not always_raises(node.body, kinds)
        elif isinstance(node, ast.Call):
            swallows = call_swallows(node, kinds, quiet)
        elif isinstance(node, ast.Try | ast.TryStar):
            swallows = any(leaves(statement) for statement in node.finalbody)
        elif isinstance(node, ast.Assign):
            names = {getattr(target, "id", getattr(target, "attr", "")) for target in node.targets}
            swallows = bool(names & EXITS) and exits_quietly(node.value, quiet)
        else:
            swallows = isinstance(node, Function) and node.name in EXITS and says_handled(node)
        if swallows and (source.path, owners.get(node, "")) not in BEST_EFFORT:
            line = node.finalbody[0].lineno if isinstance(node, ast.Try | ast.TryStar) else getattr(node, "lineno", 1)
            yield Violation(source.path, line, "any error may disappear here: name the error, or raise")


def call_swallows(node: ast.Call, kinds: Kinds, quiet: set[str]) -> bool:
    """Whether a call lets any error disappear: suppress, gather with its errors as results, an exit that is pushed."""
    if is_suppression(node, kinds.origins):
        return any(is_broad(argument, kinds) for argument in node.args)
    for keyword in node.keywords:
        if keyword.arg == "return_exceptions":
            return not isinstance(keyword.value, ast.Constant) or bool(keyword.value.value)
    given = [*node.args, *(keyword.value for keyword in node.keywords)]
    pushes = isinstance(node.func, ast.Attribute) and node.func.attr in PUSHES
    if pushes or (dotted_name(node.func) == "setattr" and any(text_of(argument) in EXITS for argument in given)):
        return any(exits_quietly(argument, quiet) for argument in given)
    return False


def exits_quietly(value: ast.expr, quiet: set[str]) -> bool:
    """Whether a function that is used as an exit may return something true."""
    if isinstance(value, ast.Lambda):
        return not isinstance(value.body, ast.Constant) or bool(value.body.value)
    return dotted_name(value).rpartition(".")[2] in quiet


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
