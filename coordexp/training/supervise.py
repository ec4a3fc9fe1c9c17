"""A rollout server and a learner as one run: whoever ends first ends the other. Contract id: TRAIN-044.

In: the commands of both; out: the learner's exit code, or one error with the last lines of the server's log. However it
ends, no process that was started is left.
"""

from __future__ import annotations

import http.client
import signal
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from coordexp.training.children import GRACE_S, Interrupted, Signals, adopt_orphans, end_descendants, start_child

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from pathlib import Path

_TURN_S = 0.1
_PROBE_S = 2.0
_TAIL_LINES = 20
_READ_BYTES = 64_000


class SupervisionError(Exception):
    """A server or a learner that does not do what it was started for; says where to read more."""


@dataclass(frozen=True, slots=True)
class ServerStart:
    """How the server is started, where its output goes, and when it is ready: at a 200 from `health_url`."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    health_url: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class LearnerStart:
    """How the learner is started; its output goes where ours goes."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Callbacks:
    """`waiting` is told again and again how many seconds the server has taken; `ready` is called once it answers, with
    the seconds that are left, and raises where it may not be trained on; `say` takes a line for the user.
    """

    waiting: Callable[[float], None]
    ready: Callable[[float], None]
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunningServer:
    """The started server."""

    start: ServerStart
    process: subprocess.Popen[bytes]
    deadline: float

    def check_alive(self, doing: str) -> None:
        """Raise `SupervisionError` if it has ended, with the last lines of its log."""
        code = self.process.poll()
        if code is not None:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise SupervisionError(f"the rollout server {how} {doing}; {tail(self.start.log)}")

    @property
    def seconds_left(self) -> float:
        """Until it has to be ready."""
        return self.deadline - time.monotonic()


def supervise(server: ServerStart, learner: LearnerStart, callbacks: Callbacks, grace_s: float = GRACE_S) -> int:
    """Run both and return the exit code: the learner's, or 128 + the number of the signal that ended it all.

    What is told to end and has not after `grace_s` is killed.

    Raises `SupervisionError` when the server is not ready in time, or ends before the learner.
    """
    adopt_orphans()
    with Signals() as signals:
        try:
            with server.log.open("ab") as log:
                return _run(server, learner, callbacks, signals, log)
        except Interrupted as interrupted:
            return interrupted.exit_code
        finally:
            if left := end_descendants(signals, grace_s):
                ids = ", ".join(str(process.pid) for process in left)
                callbacks.say(f"even SIGKILL does not end {ids}; look at them with ps")


def _run(server: ServerStart, learner: LearnerStart, callbacks: Callbacks, signals: Signals, log: IO[bytes]) -> int:
    process = start_child(server.command, server.environment, log, signal.SIGKILL)
    running = RunningServer(server, process, time.monotonic() + server.timeout_s)
    wait_until_ready(running, callbacks.waiting, signals)
    callbacks.ready(max(running.seconds_left, 1.0))
    signals.raise_noted()
    trained = start_child(learner.command, learner.environment, None, signal.SIGTERM)
    while (code := trained.poll()) is None:
        signals.raise_noted()
        running.check_alive("while the learner was running")
        time.sleep(_TURN_S)
    if code != 0 and not signals.noted:
        # A learner often ends because its server has; then the server's own words say more.
        running.check_alive("before the learner, which failed")
    return code if code >= 0 else 128 - code


def wait_until_ready(server: RunningServer, waiting: Callable[[float], None], signals: Signals) -> None:
    """Return when the server answers. Raises `SupervisionError` when it ends first, or takes longer than it may."""
    while True:
        signals.raise_noted()
        server.check_alive("before it was ready")
        limit = server.start.timeout_s
        if server.seconds_left <= 0:
            text = f"the rollout server is not ready after {limit:g} s (rollout_matching.vllm.server.timeout_s)"
            raise SupervisionError(f"{text}; {tail(server.start.log)}")
        waiting(limit - server.seconds_left)
        if answers(server.start.health_url, min(_PROBE_S, max(server.seconds_left, _TURN_S))):
            return
        time.sleep(_TURN_S)


def answers(url: str, timeout: float) -> bool:
    """Whether a GET is answered with 200, asked past any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as response:
            return bool(response.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def tail(log: Path) -> str:
    """The last lines of a log, introduced."""
    with log.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - _READ_BYTES, 0))
        lines = stream.read().decode("utf-8", "replace").splitlines()
    if not lines:
        return f"its log {log} is empty"
    return "\n".join([f"the last lines of {log}:", *(f"  {line}" for line in lines[-_TAIL_LINES:])])
