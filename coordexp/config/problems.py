"""What is wrong with a configuration, and the error that reports all of it at once. Contract ids: CONFIG-007.

In: places and messages; out: one line a problem, `file:line: dotted.path[0]: what, what is allowed, what to do`.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

KeyPath = tuple[str | int, ...]
"""Keys and list indices that lead to a value: `("rollout_matching", "vllm", "server", "servers", 0)`."""


_LONGEST_KEY = 100
_SHOWN = 60
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def show(value: object) -> str:
    """A value in a message: as YAML would write it, cut when long."""
    text = bare(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def bare(value: object) -> str:
    """A scalar without quotes, as YAML writes it."""
    names = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else str(value)


def render_path(path: KeyPath) -> str:
    """Dotted text of a path, with list indices in brackets; empty for the whole configuration."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in path)
    return text.removeprefix(".")


def _key(part: str) -> str:
    """A key in a path; one that would break the line or the dots is quoted, one that would fill the screen is cut."""
    if len(part) > _LONGEST_KEY:
        part = f"{part[: _LONGEST_KEY - 1]}…"
    return part if part.isprintable() and "." not in part and part else json.dumps(part)


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: the value's path, what is wrong and what to do, and where it is written (`file:line`, or a file)."""

    path: KeyPath
    message: str
    where: str

    def __str__(self) -> str:
        if not self.path:
            return f"{self.where}: {self.message}"
        return f"{self.where}: {render_path(self.path)}: {self.message}"


class ConfigError(Exception):
    """A configuration that can't be used. `problems` holds all of its faults, in the order of the files' lines."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in self.problems)]))


def nearest_match(word: str, allowed: Iterable[str]) -> str | None:
    """The allowed word that looks most like `word`, or None when nothing resembles it.

    Case, hyphens and camel case do not count: `Learning-Rate` and `learningRate` are nearest to `learning_rate`.
    """
    folded = {_fold(option): option for option in allowed}
    close = difflib.get_close_matches(_fold(word[:_LONGEST_KEY]), folded)
    return folded[close[0]] if close else None


def _fold(word: str) -> str:
    return _CAPITAL.sub("_", word).replace("-", "_").replace(" ", "_").casefold()
