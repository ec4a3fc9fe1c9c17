"""Dotted access to a merged configuration while it is being checked, faults and all. Contract ids: CONFIG-007.

In: dotted keys; out: the written value or the schema's default. Reading a key that is itself faulty raises
`UnreadableKeyError`, so a cross check that needs it is skipped: that key's own problem is reported already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordexp.config.problems import KeyPath, Problem
from coordexp.config.rules import REQUIRED, Rule
from coordexp.config.source import Node, node_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class UnreadableKeyError(Exception):
    """A cross check asked for a key whose own value is missing or wrong."""


class View:
    """Values of a merged configuration by dotted key."""

    def __init__(self, rule: Rule, values: Mapping[str, Any], root: Node, faulty: Iterable[KeyPath]) -> None:
        self._rule = rule
        self._values = values
        self._root = root
        self._faulty = frozenset(faulty)

    def __getitem__(self, key: str) -> Any:
        """The value written at a dotted key, or its default; None below a section that is null or left out."""
        rule = self._rule
        path: KeyPath = ()
        value: Any = self._values
        for part in key.split("."):
            path = (*path, part)
            if path in self._faulty:
                raise UnreadableKeyError(key)
            assert rule.properties is not None, f"{key}: no such config key"
            rule = rule.properties[part]
            if value is None:
                continue
            value = value.get(part, rule.default)
            if value is REQUIRED:
                raise UnreadableKeyError(key)
        if any(fault[: len(path)] == path for fault in self._faulty) and not isinstance(value, dict):
            raise UnreadableKeyError(key)
        return value

    def readable(self, key: str) -> bool:
        """Whether a key has a value, written or default, that no fault stands on."""
        try:
            self[key]
        except UnreadableKeyError:
            return False
        return True

    def sound_items(self, key: str) -> Iterator[tuple[int, Any]]:
        """The items of a list, with their indices, that have no fault themselves; none when there is no list."""
        path: KeyPath = tuple(key.split("."))
        value: Any = self._values
        for length, part in enumerate(path, 1):
            if path[:length] in self._faulty:
                raise UnreadableKeyError(key)
            value = value.get(part)
            if value is None:
                return
        for index, item in enumerate(value):
            here = (*path, index)
            if not any(fault[: len(here)] == here for fault in self._faulty):
                yield index, item

    def written(self, key: str) -> bool:
        """Whether the file, or one that it extends, writes this dotted key."""
        value: Any = self._values
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return False
            value = value[part]
        return True

    def rule(self, key: str) -> Rule:
        """The rule of a dotted key."""
        rule = self._rule
        for part in key.split("."):
            assert rule.properties is not None, f"{key}: no such config key"
            rule = rule.properties[part]
        return rule

    def problem(self, key: str, message: str, *index: str | int) -> Problem:
        """A problem at a dotted key (and list indices or keys below it), with the place where it is written."""
        path: KeyPath = (*key.split("."), *index)
        return Problem(path, message, node_at(self._root, path).where)
