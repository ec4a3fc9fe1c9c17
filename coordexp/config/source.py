"""Reads one YAML file into a tree that remembers its lines. Contract ids: CONFIG-001, CONFIG-002.

In: a path; out: a `Node` tree. Duplicate keys, merge keys and keys that are no text are problems, never last-one-wins.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from coordexp.config.problems import ConfigError, KeyPath, Problem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Loader: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Scalar = str | int | float | bool | None
_TAG = "tag:yaml.org,2002:"
_BOOLEANS = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)")


@dataclass(slots=True)
class Node:
    """A value (a dict of nodes, a list of nodes, or a scalar) and where it is written; `line` counts from 1."""

    value: dict[str, Node] | list[Node] | Scalar
    file: Path
    line: int

    @property
    def where(self) -> str:
        """`file:line` for messages."""
        return f"{self.file}:{self.line}"


def read_source(path: Path, problems: list[Problem]) -> Node:
    """Parse the file, adding what is wrong with single keys to `problems`.

    Raises `ConfigError` when the file can't be read, is no YAML, or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(str(path), [Problem((), f"cannot be read: {reason}", str(path))]) from error
    try:
        root = yaml.compose(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(str(path), [Problem((), f"no valid YAML: {reason}", where)]) from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [Problem((), f"no valid YAML: {error}", str(path))]) from error
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(str(path), [Problem((), "holds no mapping of sections", str(path))])
    return _Reader(path, problems).read(root, (), 1)


class _Reader:
    """Turns the YAML library's nodes of one file into ours."""

    def __init__(self, file: Path, problems: list[Problem]) -> None:
        self._file = file
        self._problems = problems
        self._open: set[int] = set()

    def read(self, node: yaml.Node, path: KeyPath, line: int) -> Node:
        """Convert `node`; `line` is that of its key, or its own in a list."""
        if isinstance(node, yaml.ScalarNode):
            return Node(self._scalar(node, path, line), self._file, line)
        if id(node) in self._open:
            self._report(path, line, "holds itself through a YAML alias")
            return Node(None, self._file, line)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return Node(self._mapping(node, path), self._file, line)
            items = [self.read(item, (*path, i), item.start_mark.line + 1) for i, item in enumerate(node.value)]
            return Node(items, self._file, line)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Node]:
        result: dict[str, Node] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{_TAG}str":
                self._report(path, line, _bad_key(key_node))
                continue
            key = key_node.value
            if key in result:
                self._report((*path, key), line, f"written twice; first at line {result[key].line}; keep one")
                continue
            result[key] = self.read(value_node, (*path, key), line)
        return result

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath, line: int) -> Scalar:
        if node.tag == f"{_TAG}str":
            return str(node.value)
        convert = _CONVERTERS.get(node.tag)
        if convert is None:
            self._report(path, line, f"{node.value!r} has the YAML type {node.tag.removeprefix(_TAG)}; quote it")
            return str(node.value)
        try:
            return convert(node.value)
        except ValueError as error:
            self._report(path, line, str(error))
            return str(node.value)

    def _report(self, path: KeyPath, line: int, message: str) -> None:
        self._problems.append(Problem(path, message, f"{self._file}:{line}"))


def _bad_key(node: yaml.Node) -> str:
    if node.tag == f"{_TAG}merge":
        return "YAML merge keys (<<) hide where a value comes from; use extends"
    shown = repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
    return f"{shown} is no text, and keys are text; quote it"


def _integer(text: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no plain decimal integer; write it in decimal, or quote it")
    return int(text.replace("_", ""))


def _float(text: str) -> float:
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is no finite decimal number")
    return value


def _null(_text: str) -> None:
    return None


_CONVERTERS: dict[str, Callable[[str], Scalar]] = {
    f"{_TAG}int": _integer,
    f"{_TAG}float": _float,
    f"{_TAG}bool": lambda text: _BOOLEANS[text.lower()],
    f"{_TAG}null": _null,
}


def plain(node: Node) -> object:
    """The node's value without places: dicts, lists and scalars."""
    value = node.value
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [plain(child) for child in value]
    return value


def node_at(root: Node, path: KeyPath) -> Node:
    """The node at `path`, or the deepest one on the way to it (for keys that are missing)."""
    node = root
    for part in path:
        child = _child(node, part)
        if child is None:
            break
        node = child
    return node


def _child(node: Node, part: str | int) -> Node | None:
    if isinstance(node.value, dict):
        return node.value.get(part) if isinstance(part, str) else None
    if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
        return node.value[part]
    return None
