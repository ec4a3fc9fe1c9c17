"""scripts/train_stage2.sh for real: the CPU server, a learner, and an end in each phase that leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import yaml

from coordexp.rollout.serve import API_KEY_VARIABLE
from coordexp.spec import check
from coordexp.training.stage2_launch import Machine, build_stage2_launch, check_ports
from tests.plugins.launches import ROOT, write_launch

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

pytestmark = [pytest.mark.server, pytest.mark.timeout(600), pytest.mark.xdist_group("launcher")]
SCRIPT = ROOT / "scripts/train_stage2.sh"
MIXED = ROOT / "configs/stage2_two_channel/smoke/ab_mixed.yaml"
STEPS = 4
READY = "rollout server: ready, training begins"
START_S, GONE_S = 240.0, 60.0


@dataclass
class Launch:
    """A launcher that runs, and every process that was ever seen below it."""

    process: subprocess.Popen[str]
    config: Path
    output: Path
    seen: set[psutil.Process] = field(default_factory=set)

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.config.parent / "run"

    def look(self) -> None:
        """Remember what is below the launcher now."""
        if self.process.poll() is None:
            self.seen.update(psutil.Process(self.process.pid).children(recursive=True))

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Return once a phase is reached."""
        deadline = time.monotonic() + START_S
        while not reached():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            self.look()
            time.sleep(0.1)
        self.look()

    def end(self) -> int:
        """The exit code, once it has ended."""
        deadline = time.monotonic() + START_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.said()
            self.look()
            time.sleep(0.1)
        return self.process.returncode

    def said(self) -> str:
        """What it has said so far on both streams."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def steps(self) -> list[dict[str, Any]]:
        """The lines of the learner's log."""
        log = self.run / "logging.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []

    def server(self) -> psutil.Process:
        """The server's first process."""
        found = [process for process in psutil.Process(self.process.pid).children() if "--port" in process.cmdline()]
        return found[0]

    def assert_nothing_left(self) -> None:
        """No process that was seen is there, and both ports are free."""
        assert len(self.seen) >= 2, "a server and its worker were seen"
        _, left = psutil.wait_procs(self.seen, timeout=GONE_S)
        assert [process.cmdline() for process in left if process.status() != psutil.STATUS_ZOMBIE] == []
        check_ports(build_stage2_launch({"config": str(self.config)}, Machine(gpu_driver=False, gpu_count=None)))


@pytest.fixture
def launch(stage1_kit: Stage1Kit, tmp_path: Path) -> Iterator[Callable[[int], Launch]]:
    """Starts a shipped smoke run, with few records and ports of its own, from a folder apart from it."""
    begun: list[Launch] = []

    def begin(steps: int) -> Launch:
        folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
        folder.mkdir()
        elsewhere.mkdir()
        training = {"max_steps": steps, "eval_steps": STEPS, "save_steps": STEPS}
        records = {"train_jsonl": str(stage1_kit.train), "val_jsonl": str(stage1_kit.val)}
        model = {"model": str(ROOT / "fixtures/tiny-qwen3vl")}
        config = write_launch(folder, MIXED, training=training, custom=records, model=model)
        environment = {key: value for key, value in os.environ.items() if key != API_KEY_VARIABLE}
        environment |= {"config": str(config), "OMP_NUM_THREADS": "1"}
        output = tmp_path / "output.txt"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                ["bash", str(SCRIPT)], cwd=elsewhere, env=environment, stdout=stream, stderr=stream, text=True
            )
        begun.append(Launch(process, config, output))
        return begun[-1]

    yield begin
    for started in begun:
        started.look()
        started.process.kill()
        for process in started.seen:
            if process.is_running():
                process.kill()


@pytest.mark.invariant("TRAIN-047")
def test_a_run_with_a_live_server_takes_steps_of_both_channels_and_leaves_nothing(launch: Any) -> None:
    run = launch(STEPS)
    assert run.end() == 0, run.said()
    document = check("stage2-preflight", json.loads(run.said().splitlines()[0]))
    steps = [line for line in run.steps() if "loss" in line]
    assert ["rollout/samples_total" in line for line in steps] == [False, False, False, True]
    (evaluation,) = [line for line in run.steps() if "eval_loss" in line]
    assert evaluation["eval_rollout/f1"] > 0
    manifest = check("run-manifest", json.loads((run.run / "run_manifest.json").read_text()))
    told = manifest["launch"]["server"]
    assert told["command"][-len(document["server_flags"]) :] == document["server_flags"]
    assert Path(told["log"]).parent == run.run and Path(told["log"]).stat().st_size > 0
    resolved = manifest["config"]["resolved"]["rollout_matching"]["vllm"]["server"]["servers"][0]
    assert resolved == yaml.safe_load(run.config.read_text())["rollout_matching"]["vllm"]["server"]["servers"][0]
    run.assert_nothing_left()


@pytest.mark.invariant("TRAIN-047")
def test_sigterm_while_the_server_starts_ends_it_all(launch: Any) -> None:
    run = launch(STEPS)
    # The app and its worker, which builds the engine.
    run.wait_until(lambda: len(run.seen) >= 3)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 143
    assert READY not in run.said()
    run.assert_nothing_left()


@pytest.mark.invariant("TRAIN-047")
def test_ctrl_c_while_the_learner_starts_ends_it_all(launch: Any) -> None:
    run = launch(STEPS)
    run.wait_until(lambda: READY in run.said())
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130
    assert run.steps() == []
    run.assert_nothing_left()


@pytest.mark.invariant("TRAIN-047")
def test_a_server_that_is_killed_during_training_ends_the_learner_with_one_message(launch: Any) -> None:
    run = launch(100_000)
    run.wait_until(lambda: bool(run.steps()))
    run.server().kill()
    assert run.end() == 1
    last = run.said().split("train_stage2: ")[-1]
    assert last.startswith("the rollout server was ended by SIGKILL") and "the last lines of" in last
    run.assert_nothing_left()


@pytest.mark.invariant("TRAIN-047")
def test_a_launcher_that_is_killed_takes_server_worker_and_learner_with_it(launch: Any) -> None:
    run = launch(100_000)
    run.wait_until(lambda: bool(run.steps()))
    run.process.kill()
    run.process.wait()
    run.assert_nothing_left()
