"""Runs the tests of one invariant: in, a checkout, an invariant id, variables to add; out, a `TestRun`.

In a fresh Python process, or in a fork of a warm one. Whatever the tests leave running is ended with them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit.inventory import files_for
from audit.suite import read_suite_command
from audit.tree import listed_files
from audit.warm import Job, WarmServer

_running: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class TestRun:
    """What a run of an invariant's tests came to: pytest's exit status (None: timed out) and the first failure."""

    __test__ = False
    status: int | None
    failed_test: str
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class TestOrder:
    """What to run: the checkout, the invariant, variables to add, seconds it may take."""

    __test__ = False
    place: Path
    invariant: str
    timeout: float
    environment: dict[str, str] = field(default_factory=dict)


def run_tests(order: TestOrder, scratch: Path, server: WarmServer | None = None) -> TestRun:
    """Run the tests; `scratch` is an empty folder for the log. `WarmServerError` when the warm process went away."""
    files = files_for(order.place, order.invariant)
    if not files:
        return TestRun(5, "", f"no test file names {order.invariant}", 0.0)
    scratch.mkdir(exist_ok=True)
    log, output = scratch / "log.jsonl", scratch / "output"
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "--invariant", order.invariant]
    arguments = [*options, f"--report-log={log}", *files]
    environment = {**read_suite_command(order.place).environment, **order.environment}
    started = time.monotonic()
    if server is not None:
        status = server.run(Job(arguments, environment, str(output), order.timeout))
    else:
        status = _run_fresh(order.place, arguments, environment, output, order.timeout)
    failed, detail = _first_failure(log)
    if not detail:
        detail = " | ".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-3:])
    return TestRun(status, failed, detail, time.monotonic() - started)


def copy_checkout(root: Path, target: Path) -> Path:
    """Copy what git does not ignore to `target`, with links to the caches and the environment; return `target`."""
    for name in listed_files(root):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target / name)
    for name in (".cache", ".venv"):
        if (root / name).is_dir():
            (target / name).symlink_to((root / name).resolve())
    return target


def _run_fresh(
    place: Path, arguments: list[str], environment: dict[str, str], output: Path, timeout: float
) -> int | None:
    with output.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=place,
            env={**os.environ, **environment},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        _running.append(process)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end_group(process)
            _running.remove(process)


def end_running() -> None:
    """End the tests that run in fresh processes now, in whatever thread."""
    for process in list(_running):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what a test left running, and pytest itself after a time-out."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _first_failure(log: Path) -> tuple[str, str]:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    for line in lines:
        if '"TestReport"' in line and '"outcome": "failed"' in line:
            try:
                entry: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:
                # Cut off by the time-out.
                continue
            crash = (entry["longrepr"] or {}).get("reprcrash") if isinstance(entry["longrepr"], dict) else None
            text = str(crash["message"] if crash else entry["longrepr"])
            return entry["nodeid"], text.split("\n", 1)[0]
    return "", ""
