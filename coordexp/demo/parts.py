"""What the quick start is about to do, and how long each part took. Titles in, lines on the console out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console


@dataclass
class Parts:
    """The parts of one quick start, counted as they begin."""

    console: Console
    total: int
    begun: int = 0
    _started: float = field(default_factory=time.monotonic)

    @contextmanager
    def part(self, title: str) -> Iterator[None]:
        """A rule with the part's number and title before it, its seconds after it."""
        self.begun += 1
        self.console.rule(f"{self.begun}/{self.total}  {title}", align="left")
        started = time.monotonic()
        yield
        self.say(f"took {time.monotonic() - started:.0f} s")

    def say(self, text: str) -> None:
        """A line as it is, however long."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @property
    def seconds(self) -> float:
        """Since the first part."""
        return time.monotonic() - self._started
