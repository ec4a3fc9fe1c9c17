"""Follows `extends` and merges: parents first, the child last. Contract ids: CONFIG-002.

In: a path; out: the merged tree, every value still knowing its file and line, and the files that took part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.config.problems import ConfigError, Problem
from coordexp.config.source import Node, read_source

if TYPE_CHECKING:
    from pathlib import Path

EXTENDS = "extends"


@dataclass(frozen=True, slots=True)
class Chain:
    """A merged configuration: `files` in the order they were applied (the named file last), `parents` as written."""

    root: Node
    files: tuple[Path, ...]
    parents: dict[Path, tuple[str, ...]]
    listed: frozenset[Path]
    """Files whose `extends` is a list."""


def read_chain(path: Path, problems: list[Problem]) -> Chain:
    """Read the file and all that it extends. A null in a child removes what it inherits, so the default holds again.

    Raises `ConfigError` for a file that can't be read and for a cycle.
    """
    walk = _Walk(problems)
    root = walk.merge_from(path.resolve(), ())
    return Chain(root, tuple(walk.files), walk.parents, frozenset(walk.listed))


class _Walk:
    """The state of one descent through `extends`."""

    def __init__(self, problems: list[Problem]) -> None:
        self.files: list[Path] = []
        self.parents: dict[Path, tuple[str, ...]] = {}
        self.listed: set[Path] = set()
        self._problems = problems

    def merge_from(self, path: Path, below: tuple[Path, ...]) -> Node:
        """Merged tree of `path`; `below` are the files that led to it, the first one first."""
        node = read_source(path, self._problems)
        assert isinstance(node.value, dict)
        extends = node.value.pop(EXTENDS, None)
        names = self._names(path, extends)
        self.parents[path] = names
        merged = Node({}, path, 1)
        for name in names:
            parent = (path.parent / name).resolve()
            self._check_parent(parent, (*below, path), extends)
            merged = merge(merged, self.merge_from(parent, (*below, path)))
        if path not in self.files:
            self.files.append(path)
        return merge(merged, node)

    def _names(self, path: Path, extends: Node | None) -> tuple[str, ...]:
        if extends is None:
            return ()
        if isinstance(extends.value, str) and extends.value:
            return (extends.value,)
        if isinstance(extends.value, list):
            self.listed.add(path)
            names = [item.value for item in extends.value if isinstance(item.value, str) and item.value]
            if names and len(names) == len(extends.value):
                return tuple(names)
        message = "must be the path of a file, relative to this one, or a list of such paths"
        self._problems.append(Problem((EXTENDS,), message, extends.where))
        return ()

    def _check_parent(self, parent: Path, chain: tuple[Path, ...], extends: Node | None) -> None:
        where = extends.where if extends else str(chain[-1])
        if parent in chain:
            shown = " -> ".join(str(file) for file in (*chain[chain.index(parent) :], parent))
            raise ConfigError(str(chain[0]), [Problem((EXTENDS,), f"extends itself: {shown}", where)])
        if not parent.is_file():
            raise ConfigError(str(chain[0]), [Problem((EXTENDS,), f"no such file: {parent}", where)])


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
