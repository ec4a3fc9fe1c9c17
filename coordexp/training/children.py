"""Child processes that do not outlive this one, and every descendant ended by its id. Contract id: TRAIN-045.

A child is started in a session of its own, so Ctrl-C reaches this process alone, which then ends the others. On Linux a
child gets a signal when this process dies in any way, and orphans of children become children of this process, so that
they are found.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

import psutil

from coordexp.rollout.lifetime import tie_to

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GRACE_S = 10.0
"""Seconds between SIGTERM and SIGKILL, and again as long for the kernel."""
_TURN_S = 0.05
_SET_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""
_NOTED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended."""
        return 128 + self.number


@dataclass
class Signals:
    """Notes SIGINT, SIGTERM and SIGHUP inside a `with`, so that they act where the work says, never in between."""

    noted: list[int] = field(default_factory=list)
    _before: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> Signals:
        for number in _NOTED:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted.append(number)

    def raise_noted(self) -> None:
        """Raise `Interrupted` for the first signal that came."""
        if self.noted:
            raise Interrupted(self.noted[0])


def adopt_orphans() -> None:
    """Make descendants whose parent has died children of this process; does nothing where there is no Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_SUBREAPER, 1, 0, 0, 0)


def start_child(
    command: Sequence[str], environment: Mapping[str, str], output: IO[bytes] | None, death_signal: signal.Signals
) -> subprocess.Popen[bytes]:
    """Start a child that gets `death_signal` when this process dies; it writes to `output`, or where this one does."""
    return subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=tie_to(os.getpid(), death_signal),
    )


def living_descendants() -> list[psutil.Process]:
    """Every process below this one that has not ended."""
    return [process for process in psutil.Process().children(recursive=True) if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_descendants(signals: Signals, grace_s: float = GRACE_S) -> list[psutil.Process]:
    """SIGTERM to every descendant, SIGKILL to those that are there after `grace_s`, or at one more signal to us.

    Returns what even that does not end within as long again. Those that start while others end are found too.
    """
    asked: set[psutil.Process] = set()
    begun, already = time.monotonic(), len(signals.noted)
    while living := living_descendants():
        waited = time.monotonic() - begun
        if waited > 2 * grace_s:
            return living
        if waited > grace_s or len(signals.noted) > already:
            _send(living, signal.SIGKILL)
        else:
            _send([process for process in living if process not in asked], signal.SIGTERM)
            asked.update(living)
        time.sleep(_TURN_S)
    return []


def _send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            # It ended by itself, and its id may be another's: psutil compares start times.
            continue
