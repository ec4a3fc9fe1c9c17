"""Keeps tests that share something costly on one xdist worker: in, the `xdist_group` markers of tests/<tier>/; out, a
scheduler for `--dist loadgroup`. Contract ids: POLICY-041.

xdist 3.8 passes a group on by writing it into the node id of each item, which pytest 9.2 does not read any more
(pytest-xdist issue 1386): the groups are lost without a word. Here they are read from the source of the tests.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling

from audit.results import without_group
from audit.symbols import parse_source
from audit.tier import files_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import pytest
    from xdist.remote import Producer

MARKER = "xdist_group"


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives all tests of a group to one worker, and each other test to whichever is free."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        self._groups = read_groups(config.rootpath, str(config.getoption("tier")))

    def _split_scope(self, nodeid: str) -> str:
        """The group of a test, or the test itself; xdist's own place for rules of this kind."""
        node = without_group(nodeid)
        return self._groups.get(node.split("[", 1)[0], node)


def read_groups(root: Path, tier: str) -> dict[str, str]:
    """Group by test function (node id without parameters), for those of tests/<tier>/ that have one.

    Of a test's own marker, its class's and its module's the nearest counts. `ValueError` for a name that is no literal.
    """
    found: dict[str, str] = {}
    for path in files_of(root, tier):
        body = parse_source(path)[1].body
        where = path.relative_to(root).as_posix()
        found |= dict(_groups_in(body, where, _module_group(body, where)))
    return found


def _groups_in(body: Iterable[ast.stmt], where: str, outer: str) -> Iterator[tuple[str, str]]:
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            inner = _named(node.decorator_list, where) or _module_group(node.body, where) or outer
            yield from _groups_in(node.body, f"{where}::{node.name}", inner)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            group = _named(node.decorator_list, where) or outer
            yield from [(f"{where}::{node.name}", group)] if group else []


def _module_group(body: Iterable[ast.stmt], where: str) -> str:
    """What `pytestmark` of a module or class says."""
    assigned = [
        node.value
        for node in body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets)
    ]
    return _named(assigned, where)


def _named(expressions: Iterable[ast.expr], where: str) -> str:
    nodes = [node for expression in expressions for node in ast.walk(expression) if isinstance(node, ast.Call)]
    for call in nodes:
        if not (isinstance(call.func, ast.Attribute) and call.func.attr == MARKER):
            continue
        names = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "name")]
        if len(names) != 1 or not isinstance(names[0], ast.Constant) or not isinstance(names[0].value, str):
            raise ValueError(f"{where}:{call.lineno}: {MARKER} takes one name, written out as text")
        return names[0].value
    return ""
