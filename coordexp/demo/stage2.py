"""The quick start's stage 2: both channels against a live server, through the launcher of scripts/train_stage2.sh.

In: the shipped configuration, the machine, held-out images; out: the checkpoint before and after it, measured. Ports
are free ones, chosen when the server is about to start. Contract ids: EVAL-032, EVAL-033, EVAL-034.
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml

from coordexp.config import Config, resolve_input, resolve_output
from coordexp.demo.images import CROWDED
from coordexp.demo.measure import Evaluator
from coordexp.demo.parts import Parts
from coordexp.demo.table import StageOutcome
from coordexp.rollout.serve import server_command
from coordexp.training.launch import LaunchError
from coordexp.training.stage2_launch import Machine, Stage2Launch, build_stage2_launch
from coordexp.training.stage2_run import run_stage2
from coordexp.training.trainer import FINAL

LOOPBACK = "127.0.0.1"
SHORT_FORM = "bash scripts/quickstart.sh --stage1-only"


class Stage2Ended(Exception):
    """Stage 2 has ended before its end, and everything that it started with it; `exit_code` is the run's."""

    def __init__(self, exit_code: int, log: str) -> None:
        self.exit_code = exit_code
        super().__init__(
            f"stage 2 ended with exit code {exit_code}; what it said stands above, {log}; nothing is left running"
        )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The variables and the GPUs that the launcher is told of."""

    environment: Mapping[str, str]
    machine: Machine

    def launch(self, config: Path) -> Stage2Launch:
        """The launcher's own plan for `config`. Raises `LaunchError` and `ConfigError`."""
        given = {**self.environment, **choose_devices(self.environment, self.machine)}
        return build_stage2_launch({**given, "config": str(config), "gpus": "", "preflight": ""}, self.machine)


def choose_devices(environment: Mapping[str, str], machine: Machine) -> dict[str, str]:
    """Device lists for the launcher: what is set, none on a CPU, else the first GPU serves and the second learns.

    Raises `LaunchError` where there is one GPU: server and learner need one each.
    """
    named = environment.get("server_gpus", "") + environment.get("train_gpus", "")
    if not machine.gpu_driver or named.strip():
        return {}
    if machine.gpu_count is not None and machine.gpu_count < 2:
        raise LaunchError(
            "stage 2 needs a device for the rollout server and another for the learner, and this machine has "
            f"{machine.gpu_count}; write: {SHORT_FORM}"
        )
    return {"server_gpus": "0", "train_gpus": "1"}


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nothing listens on now, all different."""
    trials = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for trial in trials:
            trial.bind((LOOPBACK, 0))
        return [trial.getsockname()[1] for trial in trials]
    finally:
        for trial in trials:
            trial.close()


def write_run_config(config: Config) -> Path:
    """A YAML of this run alone, in a new folder below `training.output_dir`: the configuration with free ports and with
    its folders there.
    """
    folder = resolve_output(config, config.training.output_dir) / f"{datetime.now():%Y%m%d-%H%M%S-%f}"
    folder.mkdir(parents=True)
    http, group = free_ports(2)
    servers = [{"base_url": f"http://{LOOPBACK}:{http}", "group_port": group}]
    document = {
        "extends": str(config.sources.path),
        "training": {"output_dir": str(folder / "run"), "logging_dir": str(folder / "tb"), "add_version": False},
        "rollout_matching": {"vllm": {"server": {"servers": servers}}},
    }
    path = folder / "quickstart.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def show_stage2(config: Config, heldout: Mapping[str, Path], around: Surroundings, parts: Parts) -> StageOutcome:
    """Three parts. Raises what they raise for bad input, `SupervisionError` for a server that fails, `Stage2Ended`."""
    evaluator = Evaluator(config, heldout, parts)
    start = resolve_input(config, "model.model", config.model.model)
    with parts.part("the checkpoint that stage 2 starts from, on held-out images"):
        before = evaluator.measure(start, resolve_output(config, config.training.output_dir) / "before")
    with parts.part("stage 2, on ground truth and on what the model writes itself"):
        run = train(around.launch(write_run_config(config)), around, parts)
    with parts.part("the checkpoint that stage 2 has trained, on the same images"):
        after = evaluator.measure(run / FINAL, run / "after")
    # Where stage 1 has levelled off a few hundred steps move less than so few images can tell: said, and no verdict.
    return StageOutcome("stage 2", CROWDED, before, after, run / FINAL, decides=False)


def train(launch: Stage2Launch, around: Surroundings, parts: Parts) -> Path:
    """The run's folder, after a server and a learner were started and have both ended. Raises as `show_stage2` does."""
    parts.say(f"starts a rollout server:\n  {shlex.join(server_command(launch.server_flags))}")
    parts.say(
        f"  at {launch.server.base_url}, to which the learner pushes weights over port {launch.server.group_port}"
    )
    parts.say(f"then a learner:\n  {shlex.join(launch.learner.command)}")
    # The stack's notes on its defaults would bury what a newcomer should see.
    code = run_stage2(launch, {"LOG_LEVEL": "WARNING", **around.environment}, parts.console)
    if code != 0:
        raise Stage2Ended(code, f"and the server's log is in {launch.output_dir}")
    parts.say("server and learner have ended")
    return launch.output_dir
