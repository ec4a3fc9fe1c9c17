"""scripts/train.sh: environment variables in, one training process or a torchrun group out."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from coordexp.rollout.serve import has_gpu_driver
from coordexp.training.launch import (
    CHECKOUT,
    LaunchError,
    build_launch,
    count_gpus,
    parse_gpus,
    resolve_config,
)

pytestmark = pytest.mark.invariant("POLICY-018")

CONFIG = "configs/stage1/smoke/shapes.yaml"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("{}\n")
    return str(path)


def test_one_gpu_is_one_process(config):
    launch = build_launch({"config": config, "gpus": "3"}, gpu_driver=True)
    assert launch.command == (sys.executable, "-m", "coordexp.entrypoints.train", "--config", config)
    assert launch.environment == {"CUDA_VISIBLE_DEVICES": "3"}


@pytest.mark.parametrize(("gpus", "count", "visible"), [("0,1", "2", "0,1"), ("0, 2,5", "3", "0,2,5")])
def test_several_gpus_are_a_torchrun_group(config, gpus, count, visible):
    launch = build_launch({"config": config, "gpus": gpus}, gpu_driver=True)
    group = ("torch.distributed.run", "--standalone", "--nproc-per-node", count, "-m")
    assert launch.command == (sys.executable, "-m", *group, "coordexp.entrypoints.train", "--config", config)
    assert launch.environment == {"CUDA_VISIBLE_DEVICES": visible}


@pytest.mark.parametrize("environment", [{}, {"gpus": ""}, {"CUDA_VISIBLE_DEVICES": "1"}])
def test_without_a_driver_the_run_is_on_the_cpu(config, environment):
    launch = build_launch({"config": config, **environment}, gpu_driver=False)
    assert launch.environment == {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize(("environment", "visible"), [({}, "0"), ({"CUDA_VISIBLE_DEVICES": "4"}, "4")])
def test_without_gpus_the_first_visible_gpu_is_taken(config, environment, visible):
    launch = build_launch({"config": config, **environment}, gpu_driver=True)
    assert launch.environment == {"CUDA_VISIBLE_DEVICES": visible}


def test_gpus_without_a_driver_are_refused(config):
    with pytest.raises(LaunchError, match="leave gpus unset"):
        build_launch({"config": config, "gpus": "0"}, gpu_driver=False)


@pytest.mark.parametrize("value", ["a", "0,", "0,,1", "-1", "0;1", "0,0", "0 1,2", "²", "1.0"])
def test_a_bad_gpu_list_is_refused(value):
    with pytest.raises(LaunchError, match=rf"^gpus={re.escape(value)}: "):
        parse_gpus(value)


@pytest.mark.parametrize(("value", "meant"), [("0 1 2", "0,1,2"), (" 3  4 ", "3,4"), ("a b", "0,1")])
def test_spaces_for_commas_are_refused_with_what_is_meant(value, meant):
    with pytest.raises(LaunchError, match=rf"separated by commas, such as gpus={meant}$"):
        parse_gpus(value)


@pytest.mark.parametrize("value", [None, "", "  "])
def test_no_list_is_no_device(value):
    assert parse_gpus(value or "") == ()


@pytest.mark.parametrize(("gpus", "count"), [("0,3", 4), ("7", None), ("", 0)])
def test_devices_that_the_machine_has_are_taken(config, gpus, count):
    launch = build_launch({"config": config, "gpus": gpus}, gpu_driver=True, gpu_count=count)
    assert launch.environment == {"CUDA_VISIBLE_DEVICES": gpus or "0"}


@pytest.mark.parametrize(
    ("gpus", "count", "words"),
    [
        ("12", 4, "gpus=12: there is no device 12; this machine has 4 GPUs, 0..3"),
        ("0,4", 4, "gpus=0,4: there is no device 4; this machine has 4 GPUs, 0..3"),
        ("0", 0, "gpus=0: there is no device 0; this machine has no GPU"),
    ],
)
def test_a_device_beyond_the_last_is_refused_where_torch_would_train_on_the_cpu(config, gpus, count, words):
    with pytest.raises(LaunchError, match=f"^{re.escape(words)}$"):
        build_launch({"config": config, "gpus": gpus}, gpu_driver=True, gpu_count=count)


@pytest.mark.parametrize(
    ("script", "count"),
    [
        ("echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho '  MIG 1g.10gb Device 0: (UUID: MIG-1)'\necho 'GPU 1: x'", 2),
        ("exit 9", None),
    ],
    ids=["two", "broken"],
)
def test_gpus_are_counted_as_the_driver_lists_them(tmp_path, monkeypatch, script, count):
    driver = tmp_path / "nvidia-smi"
    driver.write_text(f"#!/bin/sh\n{script}\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert has_gpu_driver()
    assert count_gpus() == count


def test_without_a_driver_nobody_knows_how_many_gpus_there_are(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_gpus() is None


def test_a_relative_config_starts_at_the_checkout(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert resolve_config("pyproject.toml") == CHECKOUT / "pyproject.toml"


@pytest.mark.parametrize(("value", "message"), [("", "config is not set"), ("configs/none.yaml", "no such file")])
def test_a_missing_config_is_refused(value, message):
    with pytest.raises(LaunchError, match=message):
        resolve_config(value)


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the script, whose `.venv` runs this interpreter."""
    for name in ("scripts/train.sh", ".venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / "scripts" / "train.sh").write_text((CHECKOUT / "scripts" / "train.sh").read_text())
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tmp_path


def run_script(checkout, *arguments, **variables):
    command = ["bash", str(checkout / "scripts" / "train.sh"), *arguments]
    paths = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, **variables}
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (("--config", CONFIG), {}, "arguments are not taken"),
        ((), {}, "config is not set"),
        ((), {"config": "configs/none.yaml"}, "no such file"),
        ((), {"config": "pyproject.toml"}, "pyproject.toml"),
    ],
)
def test_the_script_refuses_in_words_and_starts_nothing(checkout, arguments, variables, message):
    done = run_script(checkout, *arguments, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("train: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_script_says_when_there_is_no_environment(checkout):
    (checkout / ".venv" / "bin" / "python").unlink()
    done = run_script(checkout, config=CONFIG)
    assert (done.returncode, done.stderr) == (2, "train: there is no environment yet; run: bash scripts/setup.sh\n")


def test_the_script_hands_on_the_exit_code_of_the_run(checkout):
    python = checkout / ".venv" / "bin" / "python"
    python.write_text("#!/bin/sh\nexit 37\n")
    assert run_script(checkout, config=CONFIG).returncode == 37
