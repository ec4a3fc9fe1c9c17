"""Judges mutants with mutmut: in, a workspace and what to judge; out, mutants with a status.

An interrupted run goes on where it stopped: what mutmut has judged in the workspace is not judged again.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit.core.outcomes import Mutant, count_judged, read_mutants
from audit.core.workspace import CoreMutationError, Workspace
from audit.suite import read_suite_command

if TYPE_CHECKING:
    from collections.abc import Callable

_DRIVER = Path(__file__).with_name("drive.py")
_LOG_FILE = "mutmut.log"
_STEP = 1.0
_PATIENCE = 20.0
_TAIL = 12
_WIDTH = 300


@dataclass(frozen=True, slots=True)
class Selection:
    """Which mutants: those whose module begins with one of `modules` (all when empty), `sample` of them by `seed`."""

    modules: tuple[str, ...] = ()
    sample: int | None = None
    seed: int = 0

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return not self.modules and self.sample is None


def generate(workspace: Workspace, jobs: int) -> list[Mutant]:
    """Write the mutants of the workspace's sources; what was judged before stays judged."""
    _finish(_start(workspace, jobs, ()), workspace)
    mutants = read_mutants(workspace.mutants)
    if not mutants:
        raise CoreMutationError("mutmut found nothing to mutate; see only_mutate in [tool.mutmut]")
    return mutants


def select(mutants: list[Mutant], selection: Selection) -> list[Mutant]:
    """The selected mutants, in order; `CoreMutationError` when a module has none."""
    for prefix in selection.modules:
        if not any(_in_module(mutant, prefix) for mutant in mutants):
            modules = sorted({mutant.module for mutant in mutants})
            raise CoreMutationError(f"no mutants in {prefix!r}; there are some in {', '.join(modules)}")
    chosen = [m for m in mutants if not selection.modules or any(_in_module(m, p) for p in selection.modules)]
    if selection.sample is None or selection.sample >= len(chosen):
        return chosen
    drawn = set(random.Random(selection.seed).sample([mutant.name for mutant in chosen], selection.sample))
    return [mutant for mutant in chosen if mutant.name in drawn]


def judge(workspace: Workspace, chosen: list[Mutant], jobs: int, seen: Callable[[int], None]) -> list[Mutant]:
    """Run the tests against the chosen mutants that are not judged yet; `seen` is told how many are.

    Raises `CoreMutationError` when mutmut stops early, for one when the unmutated tests fail.
    """
    names = {mutant.name for mutant in chosen}
    pending = [mutant.name for mutant in chosen if not mutant.status]
    if pending:
        process = _start(workspace, jobs, tuple(pending))
        try:
            while process.poll() is None:
                if (count := count_judged(workspace.mutants, names)) is not None:
                    seen(count)
                _wait(process, _STEP)
        finally:
            _interrupt(process)
        _finish(process, workspace)
    judged = [mutant for mutant in read_mutants(workspace.mutants) if mutant.name in names]
    left = [mutant.name for mutant in judged if not mutant.status]
    if left:
        raise CoreMutationError(f"{len(left)} mutants have no result, {left[0]} for one; run again\n{_tail(workspace)}")
    seen(len(judged))
    return judged


def _in_module(mutant: Mutant, prefix: str) -> bool:
    """`config` and `coordexp.config` name the same package."""
    return any(f"{mutant.module}.".startswith(f"{name}.") for name in (prefix, f"coordexp.{prefix}"))


def _start(workspace: Workspace, jobs: int, names: tuple[str, ...]) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        **read_suite_command(workspace.root).environment,
        "COORDEXP_HYPOTHESIS": "mutants",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Each mutant starts a session; looking for plugins would take a good part of it.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    with (workspace.place / _LOG_FILE).open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", str(_DRIVER), str(jobs)],
            cwd=workspace.place,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
    assert process.stdin is not None
    process.stdin.write("\n".join(names))
    process.stdin.close()
    return process


def _wait(process: subprocess.Popen[str], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _interrupt(process: subprocess.Popen[str]) -> None:
    """End mutmut as Ctrl-C does, after which it writes what it knows."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        _wait(process, _PATIENCE)
        process.kill()


def _finish(process: subprocess.Popen[str], workspace: Workspace) -> None:
    if process.wait() != 0:
        raise CoreMutationError(f"mutmut ended with status {process.returncode}:\n{_tail(workspace)}")


def _tail(workspace: Workspace) -> str:
    text = (workspace.place / _LOG_FILE).read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    # The spinner in front of a line turns while the line stays.
    lines = {line[1:]: line for line in text.splitlines() if line.strip()}
    # Some name every test.
    shown = [line if len(line) < _WIDTH else f"{line[:_WIDTH]} ..." for line in lines.values()]
    return "\n".join(shown[-_TAIL:])
