"""One child process in, what it cost out: exit code, CPU seconds of all and of its training steps.

CPU seconds are user and system time of the process (its threads included), read while it runs and set beside the last
step in its log, so that start-up (imports, weights, measuring records) is told apart from training.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from coordexp.training.children import start_child

if TYPE_CHECKING:
    from collections.abc import Sequence

TURN_S = 0.1
TAIL_LINES = 12


class ChildError(Exception):
    """A child process that ended with another code than 0; the text has its last lines."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU and wall seconds of a process; `per_step` CPU seconds of a training step, None for other processes."""

    cpu_s: float
    wall_s: float
    per_step: float | None


class StepClock:
    """Reads a run's log as it grows: CPU seconds at its first and at its last logged step."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._size = 0
        self._marks: list[tuple[int, float]] = []

    def look(self, cpu_s: float) -> None:
        """Note `cpu_s` beside the newest step, if one was logged since."""
        size = self._log.stat().st_size if self._log.exists() else 0
        if size > self._size:
            self._size = size
            step = last_step(self._log)
            if step and (not self._marks or step > self._marks[-1][0]):
                self._marks = [*self._marks[:1], (step, cpu_s)]

    def per_step(self) -> float | None:
        """CPU seconds of a step between the first and the last logged one; the first, which warms up, is left out."""
        if len(self._marks) < 2:
            return None
        (first, begun), (last, ended) = self._marks
        return (ended - begun) / (last - first)


def last_step(log: Path) -> int:
    """The last optimizer step in a run's log; 0 where there is none yet."""
    steps = [line["global_step"] for line in read_log(log) if "loss" in line]
    return int(steps[-1]) if steps else 0


def read_log(log: Path) -> list[dict[str, float]]:
    """The whole lines of a run's log."""
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def run_module(module: str, arguments: Sequence[str], output: Path, threads: int, log: Path | None = None) -> Cost:
    """Run `python -m module` on the CPU with so many threads, its output into a file; raises `ChildError`."""
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
        # A comparison in CPU seconds stays on the CPU beside a GPU too.
        "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "160",
    }
    begun, cpu_s = time.monotonic(), 0.0
    clock = None if log is None else StepClock(log)
    with output.open("wb") as stream:
        child = start_child([sys.executable, "-m", module, *arguments], environment, stream, signal.SIGKILL)
        process = psutil.Process(child.pid)
        while child.poll() is None:
            cpu_s = max(cpu_s, _cpu_seconds(process))
            if clock is not None:
                clock.look(cpu_s)
            time.sleep(TURN_S)
    if child.returncode:
        tail = output.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-TAIL_LINES:]
        raise ChildError(f"{module} ended with exit code {child.returncode}; {output}:\n" + "\n".join(tail))
    if clock is not None:
        clock.look(cpu_s)
    return Cost(cpu_s, time.monotonic() - begun, None if clock is None else clock.per_step())


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
