"""The plan of a stage-2 launch becomes two processes: the key, their environments, the log, what the learner is told.

In: the plan; out: the exit code of the run. Contract ids: TRAIN-044, TRAIN-046.
"""

from __future__ import annotations

import os
import secrets
from datetime import datetime
from typing import TYPE_CHECKING

from coordexp.artifacts.folders import check_writable
from coordexp.rollout.serve import API_KEY_VARIABLE, server_command, server_environment, shared_key
from coordexp.rollout.server_flags import vllm_sections
from coordexp.training.server_launch import SERVER_LAUNCH_VARIABLE, render_server_launch
from coordexp.training.stage2_launch import check_ports
from coordexp.training.supervise import Callbacks, LearnerStart, ServerStart, SupervisionError, supervise

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import Console

    from coordexp.training.stage2_launch import Stage2Launch

THREADS_VARIABLE = "OMP_NUM_THREADS"


def run_stage2(launch: Stage2Launch, environment: Mapping[str, str], console: Console) -> int:
    """Start the server, wait for it, train, and end both. Raises `ConfigError` for a taken port, `FolderError` for
    a folder that takes no file, and `SupervisionError` where the server fails.
    """
    check_ports(launch)
    environment = environment if launch.devices.server else share_cores(environment, os.cpu_count() or 1)
    api_key = shared_key(environment) or secrets.token_urlsafe(32)
    check_writable(launch.output_dir).mkdir(parents=True, exist_ok=True)
    log = launch.output_dir / f"rollout_server-{datetime.now():%Y%m%d-%H%M%S}.log"
    server = plan_server(launch, environment, api_key, log)
    console.print(f"rollout server: starting, its output is in {log}", highlight=False, markup=False, soft_wrap=True)
    # Drawn on a terminal alone; no thread of it is there when the learner starts.
    status = console.status("rollout server")

    def waiting(seconds: float) -> None:
        status.update(f"rollout server: {seconds:.0f} s, at most {launch.timeout_s:g}")
        status.start()

    def ready(seconds_left: float) -> None:
        check_ready(launch, api_key, seconds_left)
        status.stop()
        console.print("rollout server: ready, training begins", highlight=False)

    try:
        return supervise(
            server, plan_learner(launch, environment, api_key, server), Callbacks(waiting, ready, console.print)
        )
    finally:
        status.stop()


def share_cores(environment: Mapping[str, str], cores: int) -> dict[str, str]:
    """`environment` with half of the cores for each side's threads, unless it names a number itself: with all of them
    each, the two sides would wait for one another, at a multiple of the time.
    """
    return {THREADS_VARIABLE: str(max(1, cores // 2)), **environment}


def plan_server(launch: Stage2Launch, environment: Mapping[str, str], api_key: str, log: Path) -> ServerStart:
    """How the server is started: on its devices alone, the key in its environment."""
    devices = ",".join(str(device) for device in launch.devices.server)
    repeats = vllm_sections(launch.config)[0].repeat_terminate
    return ServerStart(
        command=server_command(launch.server_flags),
        environment=server_environment({**environment, "CUDA_VISIBLE_DEVICES": devices}, api_key, repeats),
        log=log,
        health_url=f"{launch.server.base_url}/health/",
        timeout_s=launch.timeout_s,
    )


def plan_learner(
    launch: Stage2Launch, environment: Mapping[str, str], api_key: str, server: ServerStart
) -> LearnerStart:
    """How the learner is started: what `scripts/train.sh` would start, told of the server."""
    told = render_server_launch(server.command, launch.devices.server, server.log)
    own = {**launch.learner.environment, API_KEY_VARIABLE: api_key, SERVER_LAUNCH_VARIABLE: told}
    return LearnerStart(launch.learner.command, {**environment, **own})


def check_ready(launch: Stage2Launch, api_key: str, seconds: float) -> None:
    """Raise `SupervisionError` for a server that is not what the configuration says."""
    from coordexp.training.input_errors import INPUT_ERRORS
    from coordexp.training.server_connect import check_server

    try:
        check_server(launch.config, api_key, seconds)
    except INPUT_ERRORS as error:
        raise SupervisionError(str(error)) from error
