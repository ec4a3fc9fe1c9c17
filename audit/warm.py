"""Runs pytest in forks of a process that has the heavy third-party modules loaded: in, arguments; out, the exit status.

Starting torch, transformers and ms-swift takes longer than most tests. Only third-party modules are loaded beforehand;
the checkout's own are imported in each fork, so that mutants of them take effect. `python -m audit.warm` serves.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

PRELOADED = (
    "hypothesis", "syrupy", "xdist", "pytest_timeout", "yaml", "jsonschema", "lark", "jinja2", "rich.progress",
    "numpy", "PIL.Image", "scipy.optimize", "torch", "transformers",
    "transformers.models.qwen3_vl.modeling_qwen3_vl", "transformers.models.qwen3_vl.processing_qwen3_vl",
    "swift.template",
)  # fmt: skip
_STEP = 0.02
_PATIENCE = 5.0


class WarmServerError(Exception):
    """The server went away; the text says what it said last."""


@dataclass(frozen=True, slots=True)
class Job:
    """One pytest run: its arguments, the variables to add, the file for its output, the time it may take in seconds."""

    arguments: list[str]
    environment: dict[str, str]
    output: str
    timeout: float


class WarmServer:
    """The client's side: `run` jobs one after the other; leaving the context ends the server."""

    def __init__(self, root: Path, environment: dict[str, str], preloaded: tuple[str, ...] = PRELOADED) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "audit.warm", *preloaded],
            cwd=root,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # Ctrl-C is for the client, which ends the server and what it runs.
            start_new_session=True,
        )

    def __enter__(self) -> WarmServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.communicate()

    def run(self, job: Job) -> int | None:
        """Pytest's exit status, negative when a signal ended it, None when the time was up."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asdict(job)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WarmServerError("the process that runs the tests went away") from error
        answer = self._process.stdout.readline()
        if not answer:
            raise WarmServerError("the process that runs the tests went away")
        status: int | None = json.loads(answer)
        return status


def serve() -> None:
    """Answer each job on standard input with its status on standard output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _preload()
    for line in sys.stdin:
        answers.write(json.dumps(_run_in_fork(Job(**json.loads(line)))) + "\n")
        answers.flush()


def _preload() -> None:
    """Import what can be imported; coordexp comes first, as torchvision needs its bridge, and is forgotten again."""
    importlib.import_module("coordexp")
    for name in sys.argv[1:]:
        try:
            importlib.import_module(name)
        except ImportError:
            # The tests that need it import it themselves and fail with the reason.
            continue
    _forget_own_modules()


def _forget_own_modules() -> None:
    own = {"coordexp", "audit", "tests", *(path.parent.name for path in Path.cwd().glob("*/__init__.py"))}
    for name in list(sys.modules):
        if name.split(".", 1)[0] in own:
            del sys.modules[name]


def _run_in_fork(job: Job) -> int | None:
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _run_and_exit(job)
    # Asked to end, the server takes the tests that run with it.
    signal.signal(signal.SIGTERM, lambda *_: _end_with(child))
    deadline = time.monotonic() + job.timeout
    status: int | None = None
    while time.monotonic() < deadline:
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(code)
            break
        time.sleep(_STEP)
    # The number of a process that has ended may be another's.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return status
    if status is None:
        os.waitpid(child, 0)
    return status


def _end_with(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        # It has not begun a group of its own yet, or has ended.
        os.kill(child, signal.SIGKILL)
    os._exit(1)


def _run_and_exit(job: Job) -> None:
    """In the fork: become an own group, write to the job's file, install the mutant, run pytest, and never return."""
    status = 70
    try:
        os.setsid()
        with open(job.output, "w", encoding="utf-8") as stream, open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        os.environ.update(job.environment)
        if "AUDIT_MUTANT" in job.environment:
            importlib.import_module("audit.startup.sitecustomize").install(job.environment["AUDIT_MUTANT"])
            _forget_own_modules()
        status = int(importlib.import_module("pytest").main(job.arguments))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
