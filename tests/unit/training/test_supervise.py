"""Server and learner as one run, with real processes: whoever ends first ends the other, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.plugins.launches import ROOT, free_ports

HERE = Path(__file__).parent


@dataclass
class Run:
    """A supervised pair in a process of its own."""

    folder: Path
    port: int
    process: subprocess.Popen[str]

    def pids(self) -> dict[str, int]:
        """Process ids by name, of those that have begun."""
        texts = {path.stem: path.read_text() for path in self.folder.glob("*.pid")}
        return {name: int(text) for name, text in texts.items() if text}

    def wait_for(self, *names: str) -> None:
        """Return once all of these processes have begun."""
        deadline = time.monotonic() + 20
        while not set(names) <= self.pids().keys():
            assert time.monotonic() < deadline and self.process.poll() is None, self.pids()
            time.sleep(0.02)

    def end(self, seconds: float = 20) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    def assert_nothing_left(self) -> None:
        """No process that has begun is there, and the port can be bound."""
        assert self.pids()
        deadline = time.monotonic() + 5
        while left := [name for name, pid in self.pids().items() if lives(pid)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.02)
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(("127.0.0.1", self.port))


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """A function that starts a pair; what is left of it after a failed test is killed."""
    runs: list[Run] = []

    def begin(server: dict[str, Any], learner: dict[str, Any], grace_s: float = 5.0, timeout_s: float = 15.0) -> Run:
        (port,) = free_ports(1)
        wanted = {"server": {"port": port, **server}, "learner": learner, "grace_s": grace_s, "timeout_s": timeout_s}
        process = subprocess.Popen(
            [sys.executable, str(HERE / "supervised.py"), str(tmp_path), json.dumps(wanted)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        runs.append(Run(tmp_path, port, process))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.communicate()
        for pid in run.pids().values():
            if lives(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.invariant("TRAIN-044")
@pytest.mark.parametrize(("code", "handed_on"), [(0, 0), (37, 37), (-9, 137)])
def test_the_learner_s_exit_code_is_the_run_s_and_the_server_ends_with_it(start, code, handed_on):
    run = start({"after": 0.3, "children": 2}, {"seconds": 0.2, "code": code, "children": 1, "says": "step 1"})
    assert run.end() == (handed_on, "ready\nstep 1\n", "")
    run.assert_nothing_left()
    assert {"server", "server-child0", "server-child1", "learner", "learner-child0"} == run.pids().keys()


@pytest.mark.invariant("TRAIN-044")
def test_a_learner_begins_only_once_the_server_answers(start):
    run = start({"after": 1.0}, {"seconds": 0.0})
    run.wait_for("server")
    assert "learner" not in run.pids()
    assert run.end()[0] == 0
    assert (run.folder / "learner.pid").stat().st_mtime - (run.folder / "server.pid").stat().st_mtime >= 0.8


@pytest.mark.invariant("TRAIN-044")
def test_a_server_that_ends_early_is_noticed_and_its_last_lines_shown(start):
    run = start({"after": 99, "seconds": 0.2, "code": 3, "says": "no such dtype", "children": 1}, {}, timeout_s=60)
    code, _, err = run.end()
    assert code == 1
    log = run.folder / "server.log"
    assert err.splitlines() == [
        f"the rollout server ended with exit code 3 before it was ready; the last lines of {log}:",
        "  no such dtype",
    ]
    assert "learner" not in run.pids()
    run.assert_nothing_left()


@pytest.mark.invariant("TRAIN-045")
def test_a_child_of_a_server_that_has_ended_is_found(start):
    run = start({"after": 99, "seconds": 1.5, "code": 3, "children": 1}, {}, timeout_s=60)
    run.wait_for("server-child0")
    assert run.end()[0] == 1
    run.assert_nothing_left()


@pytest.mark.invariant("TRAIN-044")
def test_a_server_that_is_never_ready_is_ended_at_the_deadline(start):
    run = start({"after": 99, "children": 1}, {}, timeout_s=0.6)
    code, _, err = run.end()
    assert code == 1 and err.startswith("the rollout server is not ready after 0.6 s (rollout_matching.vllm.server.")
    assert f"its log {run.folder / 'server.log'} is empty" in err
    run.assert_nothing_left()


@pytest.mark.invariant("TRAIN-044")
def test_a_server_that_is_not_the_configured_one_is_not_trained_on(start):
    run = start({"refused": True}, {})
    assert run.end() == (1, "ready\n", "another dtype\n")
    run.assert_nothing_left()
    assert "learner" not in run.pids()


@pytest.mark.invariant("TRAIN-044")
@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGKILL, "was ended by SIGKILL"), (None, "ended with exit code 5")]
)
def test_a_server_that_ends_during_training_ends_the_learner(start, number, how):
    run = start(
        {"code": 5, "says": "out of memory", "children": 1, **({} if number else {"seconds": 1.5})}, {"children": 1}
    )
    run.wait_for("learner", "learner-child0")
    if number:
        os.kill(run.pids()["server"], number)
    code, _, err = run.end()
    assert code == 1
    assert f"the rollout server {how} while the learner was running" in err and "  out of memory" in err
    run.assert_nothing_left()


@pytest.mark.invariant("TRAIN-045")
@pytest.mark.parametrize("phase", ["starting", "training"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_all_and_is_the_exit_code(start, number, phase):
    run = start({"after": 99 if phase == "starting" else 0, "children": 2}, {"children": 1})
    run.wait_for("server", "server-child0", "server-child1", *(["learner", "learner-child0"] * (phase == "training")))
    run.process.send_signal(number)
    assert run.end()[0] == 128 + number
    run.assert_nothing_left()


@pytest.mark.invariant("TRAIN-045")
def test_what_ignores_sigterm_is_killed_after_the_grace(start):
    run = start({"children": 1, "stubborn": True}, {"seconds": 0.3}, grace_s=1.0)
    run.wait_for("server", "server-child0", "learner")
    begun = time.monotonic()
    assert run.end()[0] == 0
    assert 0.9 < time.monotonic() - begun < 8
    run.assert_nothing_left()


@pytest.mark.invariant("TRAIN-045")
def test_a_second_signal_does_not_wait_for_the_grace(start):
    run = start({"stubborn": True}, {"stubborn": True}, grace_s=60.0)
    run.wait_for("server", "learner")
    run.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGINT)
    assert run.end(10)[0] == 130
    run.assert_nothing_left()


@pytest.mark.invariant("TRAIN-045")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
@pytest.mark.parametrize("phase", ["starting", "training"])
def test_children_end_even_when_the_launcher_is_killed(start, phase):
    run = start({"after": 99 if phase == "starting" else 0}, {})
    run.wait_for("server", *(["learner"] * (phase == "training")))
    run.process.kill()
    run.end()
    run.assert_nothing_left()
