"""Files of a run that a person reads and nothing depends on: bounded, counted, and never the end of a run.

In: the documents of an event. Out: one file of JSON lines an event, or a count and one warning where the disk is low or
fails. Contract ids: ART-060, ART-061, ART-062.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.files import render_json_line, write_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from coordexp.metrics.accumulator import State

_LOG = logging.getLogger(__name__)
_GIB = 2**30
WRITTEN, SKIPPED, FAILED = "written", "skipped", "failed"
OUTCOMES = (WRITTEN, SKIPPED, FAILED)
"""What may become of an event: a file, nothing because the disk is low, nothing because it cannot be written."""
_TOTALS = {outcome: f"rollout/dumps_{outcome}_total" for outcome in OUTCOMES}
_SECONDS = "time/rollout_dump_s"
OBSERVED = (*_TOTALS.values(), _SECONDS)
"""Metric keys of a step on rollouts, or an evaluation, that may be written out."""


@dataclass(frozen=True, slots=True)
class DumpBounds:
    """How much is written: an event is due `every_steps` steps after the one before, `max_events` of each kind are
    written, each of `max_samples` samples whose texts are cut to `max_chars` characters, while the disk has more than
    `min_free_gib` GiB left. `first_step` says whether the first step that could be written is an event.
    """

    every_steps: int
    max_events: int
    max_samples: int
    max_chars: int
    min_free_gib: float
    first_step: bool = True


class Cadence:
    """Which steps are events: those that lie `every_steps` or more after the one before, whatever steps come by."""

    def __init__(self, bounds: DumpBounds) -> None:
        self._every, self._first = bounds.every_steps, bounds.first_step
        self._last: int | None = None

    def due(self, step: int) -> bool:
        """Whether `step`, later than all that were asked for, is an event."""
        if self._last is None:
            self._last = step
            return self._first
        if step - self._last < self._every:
            return False
        self._last = step
        return True


class DumpFiles:
    """Writes events into `folder`; `key` is the configuration's section, which warnings name."""

    def __init__(self, folder: Path, key: str, bounds: DumpBounds) -> None:
        self.folder, self.key, self.bounds = folder, key, bounds
        self._outcomes: dict[str, dict[str, str]] = {}
        self._seconds, self._told = 0.0, Counter[str]()
        self._warned: set[str] = set()

    def has_room(self, kind: str) -> bool:
        """Whether another event of `kind` may be written."""
        outcomes = self._outcomes.get(kind, {})
        return sum(outcome == WRITTEN for outcome in outcomes.values()) < self.bounds.max_events

    def write(self, kind: str, name: str, make: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Write what `make` gives into the file `name`, whole or not at all; a file of that name is replaced.

        `make` is not called where the disk is low. An error of the disk is counted and warned of once.
        """
        started = perf_counter()
        outcome = self._try(name, make)
        self._outcomes.setdefault(kind, {})[name] = outcome
        self._seconds += perf_counter() - started

    def counts(self) -> Counter[str]:
        """Events by what became of them."""
        return Counter(outcome for outcomes in self._outcomes.values() for outcome in outcomes.values())

    def take_observed(self) -> State:
        """What has happened since this was last asked, by metric key; zeros where nothing has."""
        new = Counter(self.counts())
        new.subtract(self._told)
        self._told = self.counts()
        seconds, self._seconds = self._seconds, 0.0
        return {**{key: (float(new[outcome]), 0.0) for outcome, key in _TOTALS.items()}, _SECONDS: (seconds, 0.0)}

    def tell(self) -> None:
        """Say at the end of a run what was written; a warning where something was not."""
        counts = self.counts()
        lost = counts[SKIPPED] + counts[FAILED]
        level = logging.WARNING if lost else logging.INFO
        text = "%s: %d events written to %s, %d skipped because the disk was low, %d failed"
        _LOG.log(level, text, self.key, counts[WRITTEN], self.folder, counts[SKIPPED], counts[FAILED])

    def _try(self, name: str, make: Callable[[], Iterable[Mapping[str, Any]]]) -> str:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            if free < self.bounds.min_free_gib * _GIB:
                text = "%s: %s has %.2f GiB left, and min_free_gib is %g: its events are skipped until there is more; "
                text += "training goes on"
                self._warn(SKIPPED, text, self.key, self.folder, free / _GIB, self.bounds.min_free_gib)
                return SKIPPED
            write_bytes(self.folder / name, b"".join(map(render_json_line, make())), durable=False)
        except OSError as error:
            text = "%s: %s cannot be written (%s); its events are counted as failed, and training goes on"
            self._warn(FAILED, text, self.key, self.folder / name, error)
            return FAILED
        return WRITTEN

    def _warn(self, outcome: str, text: str, *arguments: object) -> None:
        if outcome not in self._warned:
            self._warned.add(outcome)
            _LOG.warning(text, *arguments)
