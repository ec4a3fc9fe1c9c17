"""The quick start's stage 2 up to the start of a process: devices, ports, and what is refused before stage 1 begins."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordexp.config import load_config
from coordexp.demo.stage2 import Surroundings, choose_devices, free_ports, write_run_config
from coordexp.entrypoints.quickstart import main
from coordexp.training.launch import LaunchError
from coordexp.training.stage2_launch import Machine, check_ports
from tests.plugins.demo import STAGE1, STAGE2

if TYPE_CHECKING:
    from tests.plugins.demo import DemoKit

CPU, ONE, FOUR = Machine(False, None), Machine(True, 1), Machine(True, 4)
SHIPPED_PORTS = (8000, 51216)


@pytest.mark.invariant("EVAL-032")
def test_free_ports_are_different_and_nothing_listens_on_them() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    held = []
    for port in ports:
        taken = socket.socket()
        taken.bind(("127.0.0.1", port))
        held.append(taken)
    assert not set(free_ports(20)) & set(ports)
    for taken in held:
        taken.close()


@pytest.mark.invariant("EVAL-032")
def test_a_run_s_own_config_is_the_shipped_one_with_free_ports_and_folders(demo_kit: DemoKit, tmp_path: Path) -> None:
    config = load_config(demo_kit.write(tmp_path / "stage2", STAGE2))
    paths = [write_run_config(config), write_run_config(config)]
    assert paths[0] != paths[1], "a second quick start writes into no folder of the first"
    launches = [Surroundings(os.environ, CPU).launch(path) for path in paths]
    used = [port for launch in launches for port in (launch.options.port, launch.server.group_port)]
    assert len(set(used)) == 4 and not set(used) & set(SHIPPED_PORTS)
    for path, launch in zip(paths, launches, strict=True):
        check_ports(launch)
        assert launch.output_dir == path.parent / "run" and path.is_relative_to(tmp_path / "stage2" / "run")
        assert launch.config.training.max_steps == config.training.max_steps
        assert launch.learner.config == path


@pytest.mark.invariant("EVAL-033")
@pytest.mark.parametrize(
    ("machine", "environment", "chosen"),
    [
        (CPU, {}, {}),
        (FOUR, {}, {"server_gpus": "0", "train_gpus": "1"}),
        (FOUR, {"server_gpus": "2", "train_gpus": "3"}, {}),
        (ONE, {"server_gpus": "0"}, {}),
        (Machine(True, None), {}, {"server_gpus": "0", "train_gpus": "1"}),
    ],
)
def test_server_and_learner_have_devices_of_their_own(
    machine: Machine, environment: dict[str, str], chosen: dict[str, str]
) -> None:
    assert choose_devices(environment, machine) == chosen


@pytest.mark.invariant("EVAL-033")
def test_one_gpu_is_refused_with_what_to_write() -> None:
    with pytest.raises(LaunchError, match=r"this machine has 1; write: bash scripts/quickstart\.sh --stage1-only"):
        choose_devices({}, ONE)


@pytest.fixture
def refused(demo_kit: DemoKit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the quick start with a stage 2 that can't be; returns its one message."""

    def run(stage2: Path) -> str:
        stage1 = demo_kit.write(tmp_path / "stage1", STAGE1)
        assert main(["--config", str(stage1), "--stage2-config", str(stage2)]) == 1
        told = capsys.readouterr()
        assert "stage 1" not in told.out and not (tmp_path / "stage1" / "run").exists()
        assert told.err.startswith("quickstart: ") and "Traceback" not in told.err
        return told.err

    return run


def no_model(kit: DemoKit, folder: Path) -> Path:
    return kit.write(folder, STAGE2, model={"model": "fixtures/no-such-model"})


def hf(kit: DemoKit, folder: Path) -> Path:
    return kit.write(folder, STAGE2, rollout_matching={"rollout_backend": "hf", "vllm": None})  # type: ignore[dict-item]


def other_variant(kit: DemoKit, folder: Path) -> Path:
    return kit.write(folder, STAGE1)


@pytest.mark.invariant("EVAL-033")
@pytest.mark.parametrize(
    ("write", "words"),
    [
        (no_model, "'fixtures/no-such-model' does not exist"),
        (hf, "hf needs no server"),
        (other_variant, "stage2_two_channel"),
    ],
)
def test_what_stops_stage_2_is_told_before_stage_1_begins(
    demo_kit: DemoKit, tmp_path: Path, refused: Any, write: Callable[..., Path], words: str
) -> None:
    assert words in refused(write(demo_kit, tmp_path / "stage2"))
