"""Follows `extends` and merges: parents first, the child last. Contract ids: CONFIG-002.

In: a path; out: the merged tree, every value still knowing its file and line, and the files that took part.
"""

from __future__ import annotations

import os.path
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from coordexp.config.paths import real_path
from coordexp.config.problems import ConfigError, Problem
from coordexp.config.source import Node, read_source

if TYPE_CHECKING:
    from pathlib import Path

EXTENDS = "extends"
_LONGEST = 20
"""Most files in a row: beyond it, nobody can tell what a run is made of."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A merged configuration: `files` in the order they were applied (the named file last), `parents` as written.

    `places` has the `file:line` of each file's `extends`.
    """

    root: Node
    files: tuple[Path, ...]
    parents: dict[Path, tuple[str, ...]]
    places: dict[Path, str]
    listed: frozenset[Path]
    """Files whose `extends` is a list."""
    complete: bool
    """Whether every parent was read, so that a key which is not there is missing."""


def read_chain(path: Path, problems: list[Problem]) -> Chain:
    """Read the file and all that it extends. A null in a child removes what it inherits, so the default holds again.

    Parents that are not there, can't be read, or lead back to a child are added to `problems` and left out. Raises
    `ConfigError` when the file itself can't be read.
    """
    walk = _Walk(problems)
    root = walk.merge_from(real_path(path), ())
    return Chain(root, tuple(walk.files), walk.parents, walk.places, frozenset(walk.listed), walk.complete)


class _Walk:
    """The state of one descent through `extends`."""

    def __init__(self, problems: list[Problem]) -> None:
        self.files: list[Path] = []
        self.parents: dict[Path, tuple[str, ...]] = {}
        self.places: dict[Path, str] = {}
        self.listed: set[Path] = set()
        self.complete = True
        self._problems = problems
        self._merged: dict[Path, Node] = {}

    def merge_from(self, path: Path, below: tuple[Path, ...]) -> Node:
        """Merged tree of `path`; `below` are the files that led to it, the first one first."""
        node = read_source(path, self._problems)
        assert isinstance(node.value, dict)
        extends = node.value.pop(EXTENDS, None)
        names = self._names(path, extends)
        self.parents[path] = names
        self.places[path] = extends.where if extends else f"{path}:1"
        parents = [self._parent(real_path(path.parent / name), (*below, path), self.places[path]) for name in names]
        self.files.append(path)
        self._merged[path] = reduce(merge, [*filter(None, parents), node])
        return self._merged[path]

    def _parent(self, parent: Path, chain: tuple[Path, ...], where: str) -> Node | None:
        """Merged tree of a parent, read once however often it is extended; None for one that can't be used."""
        if parent in self._merged:
            return self._merged[parent]
        problem = _parent_problem(parent, chain)
        if problem:
            self._problems.append(Problem((EXTENDS,), problem, where))
        else:
            try:
                return self.merge_from(parent, chain)
            except ConfigError as error:
                self._problems.extend(error.problems)
        self.complete = False
        return None

    def _names(self, path: Path, extends: Node | None) -> tuple[str, ...]:
        if extends is None:
            return ()
        if _is_name(extends):
            return (str(extends.value),)
        if isinstance(extends.value, list):
            self.listed.add(path)
            names = [str(item.value) for item in extends.value if _is_name(item)]
            if names and len(names) == len(extends.value):
                return tuple(names)
        message = "must be the path of a file, relative to this one, or a list of such paths"
        self.complete = False
        self._problems.append(Problem((EXTENDS,), message, extends.where))
        return ()


def _is_name(node: Node) -> bool:
    return isinstance(node.value, str) and node.value.isprintable() and bool(node.value.strip())


def _parent_problem(parent: Path, chain: tuple[Path, ...]) -> str:
    """Why a parent of the last file of a chain can't be read; empty when it can."""
    if parent in chain:
        shown = " -> ".join(str(file) for file in (*chain[chain.index(parent) :], parent))
        return f"extends itself: {shown}"
    if len(chain) > _LONGEST:
        return f"is {len(chain)} files away from {chain[0]}; keep a chain within {_LONGEST}"
    if not os.path.isfile(parent):
        return f"no such file: {parent}"
    return ""


def merge(base: Node, over: Node) -> Node:
    """`over` laid on `base`: mappings key by key, everything else replaced; a null removes the key it lies on."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    result = dict(base.value)
    for key, child in over.value.items():
        if key not in result:
            result[key] = child
        elif child.value is None:
            del result[key]
        else:
            result[key] = merge(result[key], child)
    return Node(result, over.file, over.line)
