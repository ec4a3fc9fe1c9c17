"""How a server is started, what it says of itself, and that no worker outlives its app."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from coordexp.rollout import serve
from coordexp.rollout.serve import API_KEY_VARIABLE, PLUGIN, server_command, server_environment
from coordexp.rollout.server_plugin.liveness import LOGPROBS_MODE, Served, describe_app, describe_engine
from coordexp.spec import check
from tests.plugins.rogue_answers import recorded

ROOT = Path(__file__).resolve().parents[3]
# An app that starts a worker, which ties its life to the app's, and tells its pid.
APP = """
import subprocess, sys, time
worker = "import os, time; from coordexp.rollout.server_plugin.install import end_with; end_with(%s)"
worker += "; print(os.getpid(), flush=True); time.sleep(60)"
import os
subprocess.Popen([sys.executable, "-c", worker % os.getpid()])
time.sleep(60)
"""


@pytest.mark.invariant("ROLL-012")
@pytest.mark.parametrize("gpu", [True, False])
def test_the_key_and_the_engine_s_place_are_environment_alone(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    monkeypatch.setattr(serve, "has_gpu_driver", lambda: gpu)
    flags = ("--model", "m", "--external_plugins", str(PLUGIN))
    command = server_command(flags)
    assert command == (sys.executable, "-m", "swift.cli.rollout" if gpu else "coordexp.rollout.serve", *flags)
    environment = server_environment({"PATH": "/bin", API_KEY_VARIABLE: "of-the-shell"}, "secret")
    assert environment[API_KEY_VARIABLE] == "secret" and not any("secret" in part for part in command)
    assert environment["HF_HUB_OFFLINE"] == "1" and environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert environment["PATH"] == "/bin" and ("VLLM_CPU_KVCACHE_SPACE" in environment) is not gpu


@pytest.mark.invariant("ROLL-012")
def test_the_cache_of_a_cpu_may_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "has_gpu_driver", lambda: False)
    assert server_environment({"VLLM_CPU_KVCACHE_SPACE": "4"}, "k")["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert server_environment({}, "k")["VLLM_CPU_KVCACHE_SPACE"] == "1"


@pytest.mark.invariant("ROLL-013")
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux alone ends a child with its parent")
def test_a_worker_ends_with_its_app() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    app = subprocess.Popen([sys.executable, "-c", APP], stdout=subprocess.PIPE, text=True, env=environment)
    assert app.stdout is not None
    worker = psutil.Process(int(app.stdout.readline()))
    app.kill()
    app.wait()
    try:
        worker.wait(10)
    except psutil.TimeoutExpired:
        worker.kill()
        raise
    assert not worker.is_running()


@pytest.mark.invariant("ROLL-013")
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux alone ends a child with its parent")
def test_a_worker_whose_app_has_ended_already_ends_at_once() -> None:
    worker = "from coordexp.rollout.server_plugin.install import end_with; end_with(2**22 - 1); print('went on')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", worker], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == -9 and "went on" not in done.stdout and time.monotonic() - started < 60


def engine(**changes: Any) -> SimpleNamespace:
    """An engine as far as it is described."""
    model = SimpleNamespace(model=str(ROOT / "tests/.."), dtype=torch.bfloat16, max_model_len=900, logprobs_mode="x")
    config = SimpleNamespace(
        model_config=model,
        scheduler_config=SimpleNamespace(max_num_seqs=7),
        cache_config=SimpleNamespace(enable_prefix_caching=None),
        lora_config=None,
    )
    template = SimpleNamespace(template_meta=SimpleNamespace(template_type="t"), max_pixels=65536)
    workers = [SimpleNamespace(model_runner=SimpleNamespace(sampler=SimpleNamespace(logits_processors=[])))]
    inner = SimpleNamespace(vllm_config=config, collective_rpc=lambda ask: [ask(worker) for worker in workers])
    parts = {"engine": inner, "model_type": "m", "template": template}
    return SimpleNamespace(**parts | changes)


@pytest.mark.invariant("ROLL-014")
def test_an_engine_says_what_it_runs(real_tokenizer: Any) -> None:
    found = describe_engine(engine(tokenizer=real_tokenizer))
    tokenizer = found.pop("tokenizer")
    assert found == {
        "model": str(ROOT), "model_type": "m", "template": "t", "max_pixels": 65536, "dtype": "bfloat16",
        "max_model_len": 900, "max_num_seqs": 7, "enable_prefix_caching": False, "enable_lora": False,
        "logprobs_mode": "x", "repeat_terminate": None,
    }  # fmt: skip
    assert tokenizer["coords"] == [151670, 152669]
    answer = recorded("liveness")
    check("http/liveness", answer | {"workers": [{**found, "tokenizer": tokenizer}]})


@pytest.mark.invariant("ROLL-014")
def test_an_app_says_what_it_is_and_how_often_it_was_loaded() -> None:
    served = Served()
    args = SimpleNamespace(vllm_tensor_parallel_size=2, vllm_data_parallel_size=3)
    deploy = SimpleNamespace(args=args, use_async_engine=True)
    served.count_load()
    served.count_load()
    found = describe_app(deploy, served)
    check("http/liveness", {**found, "workers": recorded("liveness")["workers"]})
    assert (found["tensor_parallel_size"], found["data_parallel_size"], found["engine_type"]) == (2, 3, "async")
    assert (
        found["weight_loads"] == 2
        and found["server_id"] == served.server_id
        and found["command"] == psutil.Process().cmdline()
    )
    assert found["versions"]["torch"] == torch.__version__ and LOGPROBS_MODE == "raw_logprobs"


@pytest.mark.invariant("ROLL-014")
def test_each_start_has_its_own_id_and_an_envelope_says_life_loads_and_seed() -> None:
    first, second = Served(), Served()
    assert first.server_id != second.server_id
    first.count_load()
    for request, seed in (({"seed": 5}, 5), ({}, None)):
        envelope = check("http/envelope", first.envelope("unread", request, {}))
        assert envelope == {
            "server_id": first.server_id, "weight_loads": 1, "seed": seed, "repeat_terminate_triggered": 0,
        }  # fmt: skip
