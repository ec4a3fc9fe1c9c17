"""A rollout server of our own on this machine's CPU, started as the launcher starts it, ended by its processes' ids."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from coordexp.rollout.serve import API_KEY_VARIABLE, PLUGIN, server_command, server_environment
from tests.plugins.stage2 import EARLY

READY_S = 240.0
MAX_MODEL_LEN = 1024
MAX_PIXELS = 65536


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Live:
    """A running server: where it is, its key, its app's process and its log."""

    process: subprocess.Popen[bytes]
    base_url: str
    key: str
    group_port: int
    log: Path

    @property
    def port(self) -> int:
        """Where the app listens."""
        return int(self.base_url.rsplit(":", 1)[1])

    def family(self) -> list[psutil.Process]:
        """The app and everything that it has started."""
        if not psutil.pid_exists(self.process.pid):
            return []
        app = psutil.Process(self.process.pid)
        return [app, *app.children(recursive=True)]

    def worker(self) -> psutil.Process:
        """The process that holds the engine."""
        return max(self.family()[1:], key=lambda child: child.memory_info().rss)

    def stop(self) -> None:
        """End every process of it."""
        family = self.family()
        for process in family:
            process.kill()
        self.process.wait(30)
        psutil.wait_procs(family, 30)

    def section(self, **changes: Any) -> dict[str, Any]:
        """`rollout_matching.vllm` for a learner of this server; `changes` are of its server section."""
        server = {"servers": [{"base_url": self.base_url, "group_port": self.group_port}], "timeout_s": 60.0}
        return {"mode": "server", "max_model_len": MAX_MODEL_LEN, "server": server | changes}


def flags(model: Path, port: int) -> list[str]:
    """What `swift rollout` is given."""
    given = {
        "model": str(model.resolve()),
        "model_type": "qwen3_vl",
        "template": "qwen3_vl",
        "host": "127.0.0.1",
        "port": port,
        "torch_dtype": "float32",
        "max_pixels": MAX_PIXELS,
        "vllm_max_model_len": MAX_MODEL_LEN,
        "vllm_max_num_seqs": 32,
        "vllm_enable_prefix_caching": "true",
        "vllm_enable_lora": "false",
        "vllm_use_async_engine": "false",
        "vllm_gpu_memory_utilization": 0.2,
        "vllm_enforce_eager": "true",
        "external_plugins": str(PLUGIN),
        # Short enough for these prompts to fill some blocks of the prefix cache; the CPU's own blocks are larger.
        "vllm_engine_kwargs": json.dumps({"block_size": 32}),
    }
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def start(
    folder: Path, *, key: str | None = None, port: int | None = None, ready: bool = True, more: Sequence[str] = ()
) -> Live:
    """A server with the early checkpoint and `more` flags, ready unless told otherwise; its log is in `folder`."""
    key, port = key or secrets.token_urlsafe(16), port or free_port()
    log = folder / f"server-{port}.log"
    environment = server_environment({**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}, key)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            server_command([*flags(EARLY, port), *more]), env=environment, stdout=stream, stderr=stream, cwd=folder
        )
    live = Live(process, f"http://127.0.0.1:{port}", key, free_port(), log)
    if ready:
        wait(live)
    return live


def wait(live: Live) -> Live:
    """Return when the server is ready; its log's end in the failure otherwise."""
    from coordexp.rollout.wire import RolloutServerError, ServerConnection

    connection = ServerConnection(live.base_url, live.key, 2.0, None)
    deadline = time.monotonic() + READY_S
    while True:
        try:
            connection.call("/health/")
        except RolloutServerError:
            ended = live.process.poll() is not None
            if ended or time.monotonic() > deadline:
                tail = live.log.read_text(errors="replace")[-2000:]
                live.stop()
                pytest.fail(f"the rollout server is not ready: {tail}")
            time.sleep(0.5)
        else:
            return live


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server with the early checkpoint that most tests share; this process has its key."""
    server = start(tmp_path_factory.mktemp("live"))
    before = os.environ.get(API_KEY_VARIABLE)
    os.environ[API_KEY_VARIABLE] = server.key
    try:
        yield server
    finally:
        server.stop()
        os.environ.pop(API_KEY_VARIABLE)
        if before is not None:
            os.environ[API_KEY_VARIABLE] = before
