"""Runs a tier with a progress bar: in, a checkout; out, the report log that tox.ini names, under `.audit/`.

Command and environment are those of `[testenv:<tier>]`, so that the audit and `tox -e <tier>` run the same tests: the
contracts tier, and the server tier where tests/server/ holds tests. Contract ids: SPEC-020.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from audit.tier import files_of

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

CONTRACTS, SERVER = "contracts", "server"
DEFAULT_LOGS = {CONTRACTS: ".audit/results.jsonl", SERVER: ".audit/server.jsonl"}
_DEFAULT_COMMANDS = {
    CONTRACTS: "python -m pytest --ignore=tests/server --ignore=tests/gpu",
    SERVER: "python -m pytest -p audit.tier --tier server",
}
_LOG_OPTION = "--report-log="
_PYTHONS = ("python", "{envpython}", "{[testenv]py}")


@dataclass(frozen=True, slots=True)
class SuiteCommand:
    """How the tier is run: arguments, variables to set, and where its report log appears (absolute)."""

    arguments: tuple[str, ...]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def options(self) -> tuple[str, ...]:
        """What pytest itself is given."""
        return self.arguments[self.arguments.index("pytest") + 1 :]


def tiers_here(root: Path) -> tuple[str, ...]:
    """The tiers that a CPU can run and that hold tests, in the order in which they run."""
    return (CONTRACTS, SERVER) if files_of(root, SERVER) else (CONTRACTS,)


def read_suite_command(root: Path, tier: str = CONTRACTS) -> SuiteCommand:
    """A tier's pytest call of `root/tox.ini`, or the plain one where there is no tox.ini."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(root / "tox.ini")
    default = _DEFAULT_COMMANDS[tier]
    commands = parser.get(f"testenv:{tier}", "commands", fallback=default).replace("\\\n", " ")
    line = next((line for line in commands.splitlines() if "pytest" in line), default)
    line = re.sub(r"\{posargs(?::([^}]*))?\}", lambda match: match.group(1) or "", line)
    words = shlex.split(line.replace("{toxinidir}", str(root)).replace("{tox_root}", str(root)))
    words = [*([sys.executable] if words[0] in _PYTHONS else [sys.executable, "-m", words[0]]), *words[1:]]
    log = next((word.removeprefix(_LOG_OPTION) for word in words if word.startswith(_LOG_OPTION)), "")
    if not log:
        log = DEFAULT_LOGS[tier]
        words.append(_LOG_OPTION + log)
    pairs = (line.partition("=") for line in parser.get("testenv", "set_env", fallback="").splitlines() if "=" in line)
    return SuiteCommand(tuple(words), root / log, {name.strip(): value.strip() for name, _, value in pairs})


def run_suite(root: Path, console: Console, tier: str = CONTRACTS) -> int:
    """Run the tier, showing how many tests are through and how many failed; return pytest's exit status."""
    suite = read_suite_command(root, tier)
    total_file = suite.log.with_name(suite.log.name + ".total")
    suite.log.parent.mkdir(parents=True, exist_ok=True)
    for stale in (suite.log, total_file):
        stale.unlink(missing_ok=True)
    console.print(f"running {shlex.join(suite.arguments)}", style="dim", markup=False, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    output = suite.log.with_suffix(".out")
    with output.open("w", encoding="utf-8") as stream, Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{tier} tier", total=None)
        # The caller's own options for pytest would make it another suite.
        environment = {**os.environ, **suite.environment, "PYTEST_ADDOPTS": ""}
        process = subprocess.Popen(suite.arguments, cwd=root, stdout=stream, stderr=subprocess.STDOUT, env=environment)
        counter = _Counter(tier, suite.log)
        while process.poll() is None:
            _show(progress, task, counter, total_file)
            time.sleep(0.3)
        _show(progress, task, counter, total_file)
    if process.returncode not in (0, 1):
        console.print("\n".join(output.read_text(errors="replace").splitlines()[-8:]), markup=False, highlight=False)
    return process.returncode


class _Counter:
    """Counts the tests that ended in a growing report log, reading only what is new."""

    def __init__(self, tier: str, log: Path) -> None:
        self.tier = tier
        self.ended = self.failed = 0
        self._log, self._offset = log, 0

    def update(self) -> None:
        if not self._log.is_file():
            return
        with self._log.open("rb") as stream:
            stream.seek(self._offset)
            whole, newline, _half = stream.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            entry = json.loads(line)
            if entry.get("$report_type") == "TestReport":
                self.ended += entry["when"] == "teardown"
                self.failed += entry["outcome"] == "failed"


def _show(progress: Progress, task: TaskID, counter: _Counter, total_file: Path) -> None:
    counter.update()
    total = int(total_file.read_text() or 0) if total_file.is_file() else 0
    words = f"{counter.tier} tier" + (f" ({counter.failed} failed)" if counter.failed else "")
    progress.update(task, completed=counter.ended, total=total or None, description=words)
