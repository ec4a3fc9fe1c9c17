"""A stage-2 launch's two processes: what each is told, what the manifest keeps, and that nobody is told the key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coordexp.rollout.serve import API_KEY_VARIABLE
from coordexp.spec import ContractViolation
from coordexp.training.server_launch import SERVER_LAUNCH_VARIABLE, read_server_launch, render_server_launch
from coordexp.training.stage2_launch import Machine, build_stage2_launch
from coordexp.training.stage2_run import plan_learner, plan_server
from tests.plugins.launches import ROOT

pytestmark = pytest.mark.invariant("TRAIN-046")

GPUS = {"server_gpus": "0,1", "train_gpus": "2"}


@pytest.fixture
def planned(launch_config, tmp_path) -> Any:
    """Server and learner of a launch on GPUs."""
    environment = {"config": str(launch_config()), **GPUS, "KEPT": "1", "CUDA_VISIBLE_DEVICES": "0,1,2"}
    launch = build_stage2_launch(environment, Machine(gpu_driver=True, gpu_count=3))
    server = plan_server(launch, environment, "the-key", tmp_path / "server.log")
    return launch, server, plan_learner(launch, environment, "the-key", server)


def test_each_sees_its_own_devices_and_both_the_key(planned):
    launch, server, learner = planned
    assert server.environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert learner.environment["CUDA_VISIBLE_DEVICES"] == "2"
    for process in (server, learner):
        assert process.environment[API_KEY_VARIABLE] == "the-key"
        assert process.environment["KEPT"] == "1"
        assert not any("the-key" in argument for argument in process.command)
    assert server.health_url == f"{launch.server.base_url}/health/"
    assert server.command[-len(launch.server_flags) :] == launch.server_flags
    assert learner.command == launch.learner.command


def test_the_learner_is_told_of_the_server_as_it_is_started(planned):
    _, server, learner = planned
    told = read_server_launch(learner.environment)
    assert told == {"server": {"command": list(server.command), "devices": [0, 1], "log": str(server.log)}}
    line = learner.environment[SERVER_LAUNCH_VARIABLE]
    assert "\n" not in line and "the-key" not in line


def test_a_run_without_a_launcher_is_told_of_nothing():
    assert read_server_launch({"PATH": "/bin"}) == {}


@pytest.mark.parametrize("change", [{"api_key": "x"}, {"devices": [1, 1]}, {"log": "relative"}])
def test_what_is_told_fits_its_contract(tmp_path, change):
    document = json.loads(render_server_launch(("python", "-m"), (0,), tmp_path / "log"))
    with pytest.raises(ContractViolation):
        read_server_launch({SERVER_LAUNCH_VARIABLE: json.dumps({**document, **change})})


@pytest.mark.invariant("ART-066")
def test_a_run_on_a_server_of_another_start_says_so(stage2_kit, monkeypatch):
    from coordexp.config import load_config
    from coordexp.training.build import build_foundation

    server = {"servers": [{"base_url": "http://127.0.0.1:8000", "group_port": 1}]}
    vllm = {"mode": "server", "max_model_len": 900, "server": server}
    config = load_config(stage2_kit.write("elsewhere", rollout_matching={"rollout_backend": "vllm", "vllm": vllm}))
    monkeypatch.delenv(SERVER_LAUNCH_VARIABLE, raising=False)
    assert "did not start it" in build_foundation(config).beginnings.server["server"]["unknown"]
    monkeypatch.setenv("RANK", "1")
    assert build_foundation(config).beginnings is None, "rank 0 alone writes the manifest"


def test_the_manifest_of_a_run_holds_the_server(stage2_kit, tmp_path, monkeypatch):
    from coordexp.config import load_config
    from coordexp.losses.defaults import resolve_manifest
    from coordexp.training.build import build_foundation
    from coordexp.training.manifest import write_manifest

    config = load_config(stage2_kit.write("told"))
    objective = resolve_manifest(config)
    line = render_server_launch(("python", "-m", "swift.cli.rollout", "--port", "8000"), (), tmp_path / "log")
    monkeypatch.setenv(API_KEY_VARIABLE, "the-key")
    for told, expected in ((None, None), (line, json.loads(line))):
        if told is not None:
            monkeypatch.setenv(SERVER_LAUNCH_VARIABLE, told)
        foundation = build_foundation(config)
        text = write_manifest(config, tmp_path, foundation, objective, {}).read_text(encoding="utf-8")
        assert json.loads(text)["launch"].get("server") == expected
        assert "the-key" not in text


@pytest.fixture
def launcher(launch_config, tmp_path) -> Any:
    """A function that runs the launcher's entry point with stand-ins for server and learner."""
    config = launch_config()
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import sys\n"
        "from coordexp.training import stage2_launch, stage2_run\n"
        "from coordexp.entrypoints import launch_stage2\n"
        f"stand_in = [sys.executable, {str(Path(__file__).with_name('seen.py'))!r}, {str(tmp_path)!r}]\n"
        "stage2_run.server_command = lambda flags: (*stand_in, 'server', *flags)\n"
        "stage2_run.check_ready = lambda launch, key, seconds: None\n"
        "before = stage2_launch.build_launch\n"
        "def build_launch(*args, **more):\n"
        "    launch = before(*args, **more)\n"
        "    return stage2_launch.Launch(launch.config, (*stand_in, 'learner'), launch.environment)\n"
        "stage2_launch.build_launch = build_launch\n"
        "sys.exit(launch_stage2.main([]))\n"
    )

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "config": str(config),
            "PATH": "/usr/bin:/bin",
            **variables,
        }
        command = [sys.executable, str(driver)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def seen(folder: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return document


@pytest.mark.slow
def test_a_run_has_a_key_of_its_own_that_stands_nowhere(launcher, tmp_path):
    keys = []
    for _ in range(2):
        done = launcher()
        assert done.returncode == 0, done.stderr
        server, learner = seen(tmp_path, "server"), seen(tmp_path, "learner")
        assert server["key"] == learner["key"] and len(server["key"]) >= 32
        keys.append(server["key"])
        logs = list((tmp_path / "project/run").glob("rollout_server-*.log"))
        texts = [done.stdout, done.stderr, json.dumps(server["argv"]), *(log.read_text() for log in logs)]
        assert logs and not any(server["key"] in text for text in texts)
        assert json.loads(learner["told"])["log"] in {str(log) for log in logs}
    assert keys[0] != keys[1]


def test_a_key_that_is_set_is_taken(launcher, tmp_path):
    assert launcher(**{API_KEY_VARIABLE: "mine"}).returncode == 0
    assert seen(tmp_path, "server")["key"] == seen(tmp_path, "learner")["key"] == "mine"


def test_a_server_that_fails_is_one_message_and_exit_code_1(launcher):
    done = launcher(SEEN_SERVER_FAILS="1")
    assert done.returncode == 1
    assert (
        "train_stage2: the rollout server ended with exit code 7 before it was ready; the last lines of" in done.stderr
    )
    assert "Traceback" not in done.stderr
