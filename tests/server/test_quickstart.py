"""The quick start for real, in miniature: stage 1, then stage 2 against a live server, and nothing left of either."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from coordexp.rollout.serve import API_KEY_VARIABLE
from coordexp.training.stage2_launch import Machine, build_stage2_launch, check_ports
from tests.plugins.demo import STAGE1, STAGE2
from tests.plugins.launches import ROOT

if TYPE_CHECKING:
    from tests.plugins.demo import DemoKit

pytestmark = [pytest.mark.server, pytest.mark.timeout(600), pytest.mark.xdist_group("quickstart")]
START_S, GONE_S = 400.0, 60.0
NUMBER = re.compile(r"\d\.\d{3}|\d+")


@dataclass
class Demo:
    """A quick start that runs, and every process that was ever seen below it."""

    process: subprocess.Popen[bytes]
    folder: Path
    seen: set[psutil.Process] = field(default_factory=set)

    def look_until(self, reached: Callable[[], bool]) -> None:
        """Remember what is below it until something is so, or it has ended."""
        deadline = time.monotonic() + START_S
        while self.process.poll() is None and not reached():
            assert time.monotonic() < deadline, self.said()
            self.seen.update(psutil.Process(self.process.pid).children(recursive=True))
            time.sleep(0.1)

    def end(self) -> int:
        """The exit code, once it has ended."""
        self.look_until(lambda: False)
        return self.process.wait()

    def said(self, stream: str = "out") -> str:
        """What it has said so far on a stream."""
        return (self.folder / f"{stream}.txt").read_text(encoding="utf-8", errors="replace")

    def assert_nothing_left(self) -> None:
        """No process that was seen is there, and both ports of the run's own config are free."""
        assert len(self.seen) >= 2, "a server and its worker were seen"
        _, left = psutil.wait_procs(self.seen, timeout=GONE_S)
        assert [process.cmdline() for process in left if process.status() != psutil.STATUS_ZOMBIE] == []
        (config,) = self.folder.glob("stage2/run/*/quickstart.yaml")
        check_ports(build_stage2_launch({"config": str(config)}, Machine(gpu_driver=False, gpu_count=None)))


@pytest.fixture
def demo(demo_kit: DemoKit, tmp_path: Path) -> Iterator[Demo]:
    """A quick start in miniature that has just begun."""
    stage1 = demo_kit.write(tmp_path / "stage1", STAGE1)
    stage2 = demo_kit.write(tmp_path / "stage2", STAGE2, training={"max_steps": 4})
    environment = {key: value for key, value in os.environ.items() if key != API_KEY_VARIABLE}
    command = [str(ROOT / ".venv/bin/python"), "-m", "coordexp.entrypoints.quickstart"]
    command += ["--config", str(stage1), "--stage2-config", str(stage2)]
    with (tmp_path / "out.txt").open("wb") as out, (tmp_path / "err.txt").open("wb") as err:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment | {"OMP_NUM_THREADS": "1"}, stdout=out, stderr=err
        )
    started = Demo(process, tmp_path)
    yield started
    process.kill()
    for left in started.seen:
        if left.is_running():
            left.kill()


@pytest.mark.invariant("EVAL-034")
def test_a_quick_start_shows_both_stages_and_leaves_nothing_running(demo: Demo) -> None:
    code = demo.end()
    told = demo.said()
    verdicts = [line for line in told.splitlines() if re.match(r"stage [12]: mAP ", line)]
    assert len(verdicts) == 2, told + demo.said("err")
    assert code == (1 if "NOT improved" in verdicts[0] else 0), "stage 2's verdict is told, and decides nothing"
    (config,) = demo.folder.glob("stage2/run/*/quickstart.yaml")
    launch = build_stage2_launch({"config": str(config)}, Machine(gpu_driver=False, gpu_count=None))
    (log,) = launch.output_dir.glob("rollout_server-*.log")
    for shown in (
        launch.server.base_url,
        f"--port {launch.options.port}",
        f"port {launch.server.group_port}",
        str(log),
    ):
        assert shown in told
    (row,) = [line for line in told.splitlines() if line.startswith("mAP@[.5:.95]")]
    assert len(NUMBER.findall(row.removeprefix("mAP@[.5:.95]"))) == 8
    pictures = [line.partition(": ")[2] for line in told.splitlines() if line.startswith("gallery  ")]
    assert len(pictures) == 8 and all(Path(picture).is_file() for picture in pictures)
    assert told.count("took ") == 8 and "step 4/4" in demo.said("err")
    demo.assert_nothing_left()


@pytest.mark.invariant("EVAL-034")
def test_ctrl_c_while_the_server_starts_ends_it_all(demo: Demo) -> None:
    # The app and its worker, which builds the engine.
    demo.look_until(lambda: "rollout server: starting" in demo.said() and len(demo.seen) >= 3)
    demo.process.send_signal(signal.SIGINT)
    assert demo.end() == 130, demo.said("err")[-3000:]
    assert "stage 2: mAP" not in demo.said()
    last = demo.said("err").splitlines()[-1]
    assert last.startswith("quickstart: stage 2 ended with exit code 130") and "nothing is left running" in last
    demo.assert_nothing_left()
