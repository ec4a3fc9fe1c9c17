"""Reads one YAML file into a tree that remembers its lines. Contract ids: CONFIG-001, CONFIG-002.

In: a path; out: a `Node` tree. Duplicate keys, merge keys and keys that are no text are problems, never last-one-wins.
A file that nests or multiplies its values without end is refused before it takes memory.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from coordexp.config.problems import ConfigError, KeyPath, Problem, show

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Loader: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_COLLECTIONS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
Scalar = str | int | float | bool | None
_TAG = "tag:yaml.org,2002:"
_BOOLEANS = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}
_NULLS = {"", "~", "null"}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")
_DEEPEST = 100
_MOST_VALUES = 100_000
_LARGEST = 2**63 - 1


class UnreadText(str):
    """The text of a scalar that could not be read as what YAML takes it for; its problem is reported already."""

    __slots__ = ()


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
        _check_depth(text, path)
        root = yaml.compose(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [_syntax_problem(error, text, path)]) from error
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(str(path), [Problem((), "holds no mapping of sections", str(path))])
    return _Reader(path, problems).read(root, (), 1)


def _syntax_problem(error: yaml.YAMLError, text: str, path: Path) -> Problem:
    """What the YAML library has to say, in one line, with the line it means."""
    if isinstance(error, yaml.MarkedYAMLError):
        line = _line(error.problem_mark or error.context_mark)
        reason = " ".join(part for part in (error.context, error.problem) if part)
    else:
        line = _CONTROL.split(text)[0].count("\n") + 1
        reason = str(error).splitlines()[0]
    row = text.split("\n")[line - 1 : line]
    if row and row[0].lstrip(" ").startswith("\t"):
        reason += "; indent with spaces, not with tabs"
    return Problem((), f"no valid YAML: {reason}", f"{path}:{line}")


def _check_depth(text: str, path: Path) -> None:
    """Look at the events alone: the YAML library builds its tree by recursion, and a crash is all it has to say."""
    depth = 0
    for event in yaml.parse(text, Loader=Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            text = f"is nested deeper than {_DEEPEST} levels; flatten it"
            raise ConfigError(str(path), [Problem((), text, f"{path}:{_line(event.start_mark)}")])


def _line(mark: Any) -> int:
    """Line, from 1, of a mark of the YAML library (its C and its Python part have a class each); 1 without one."""
    return mark.line + 1 if mark else 1


class _Reader:
    """Turns the YAML library's nodes of one file into ours."""

    def __init__(self, file: Path, problems: list[Problem]) -> None:
        self._file = file
        self._problems = problems
        self._open: set[int] = set()
        self._count = 0

    def read(self, node: yaml.Node, path: KeyPath, line: int) -> Node:
        """Convert `node`; `line` is that of its key, or its own in a list."""
        self._count += 1
        if self._count > _MOST_VALUES:
            text = f"holds more than {_MOST_VALUES} values; YAML aliases (*) multiply what they name, so write it out"
            raise ConfigError(str(self._file), [Problem(path, text, f"{self._file}:{line}")])
        if isinstance(node, yaml.ScalarNode):
            return Node(self._scalar(node, path, line), self._file, line)
        if id(node) in self._open:
            self._report(path, line, "holds itself through a YAML alias")
            return Node(UnreadText(), self._file, line)
        if node.tag not in _COLLECTIONS:
            self._report(path, line, f"has the YAML type {node.tag.removeprefix(_TAG)}; write a plain mapping or list")
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
            kind = node.tag.removeprefix(_TAG)
            self._report(path, line, f"{show(node.value)} has the YAML type {kind}; quote it, as text")
            return UnreadText(node.value)
        try:
            return convert(node.value)
        except ValueError as error:
            self._report(path, line, str(error))
            return UnreadText(node.value)

    def _report(self, path: KeyPath, line: int, message: str) -> None:
        self._problems.append(Problem(path, message, f"{self._file}:{line}"))


def _bad_key(node: yaml.Node) -> str:
    if node.tag == f"{_TAG}merge":
        return "YAML merge keys (<<) hide where a value comes from; use extends"
    shown = show(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
    return f"{shown} is no text, and keys are text; quote it"


def _integer(text: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise ValueError(f"{show(text)} is no plain decimal integer; write it in decimal, or quote it, as text")
    digits = text.replace("_", "")
    if len(digits) > len(str(-_LARGEST)) or abs(int(digits)) > _LARGEST:
        raise ValueError(f"{show(text)} is an integer beyond {_LARGEST}; write a smaller one")
    return int(digits)


def _float(text: str) -> float:
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{show(text)} is no finite decimal number; write one, or quote it, as text")
    return value


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError(f"{show(text)} is neither true nor false")
    return _BOOLEANS[text.lower()]


def _null(text: str) -> None:
    if text.lower() not in _NULLS:
        raise ValueError(f"{show(text)} is not null")


_CONVERTERS: dict[str, Callable[[str], Scalar]] = {
    f"{_TAG}int": _integer,
    f"{_TAG}float": _float,
    f"{_TAG}bool": _boolean,
    f"{_TAG}null": _null,
}


def plain(node: Node) -> Any:
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
