"""Servers that stop, hang or come back in the middle of a call: one error that says so, in time, and never a hang."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

import pytest
import torch

from coordexp.rollout.serve import API_KEY_VARIABLE
from coordexp.rollout.types import Decoding
from coordexp.rollout.wire import RolloutServerError
from tests.plugins.live_server import Live, start, wait
from tests.plugins.stage2 import EARLY
from tests.server.learners import backend_of, build, disturb, greedy, hf_of, ids_of, requests_of

if TYPE_CHECKING:
    from coordexp.rollout.weight_sync import WeightPusher
    from coordexp.training.trainer import CoordTrainer
    from tests.plugins.stage2 import Stage2Kit

pytestmark = [pytest.mark.server, pytest.mark.timeout(600), pytest.mark.xdist_group("faults")]
ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 8.0
KEY = "a-key-of-two-servers"
LONG = Decoding(160, temperature=1.5, seed_base=3)
"""Answers that keep a server busy for seconds."""


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[Live]]]:
    """Starts servers side by side, under one key; all are ended."""
    monkeypatch.setenv(API_KEY_VARIABLE, KEY)
    begun: list[Live] = []

    def start_all(count: int) -> list[Live]:
        mine = [start(tmp_path, key=KEY, ready=False) for _ in range(count)]
        begun.extend(mine)
        return [wait(server) for server in mine]

    yield start_all
    for server in begun:
        server.stop()


def learner_of(kit: Stage2Kit, name: str, servers: list[Live], **changes: Any) -> CoordTrainer:
    entries = [{"base_url": server.base_url, "group_port": server.group_port} for server in servers]
    section = servers[0].section(servers=entries, timeout_s=DEADLINE_S, **changes)
    return build(kit, servers[0], name, rollout_matching={"vllm": section})


def pusher_of(trainer: CoordTrainer) -> WeightPusher:
    pusher = backend_of(trainer).weights.pusher
    assert pusher is not None
    return pusher


class Interrupted:
    """A policy in the middle of whose push `act` is called, after `after` tensors."""

    def __init__(self, inner: Any, after: int, act: Callable[[], None]) -> None:
        self._inner, self._after, self._act = inner, after, act

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for number, pair in enumerate(self._inner.weights()):
            if number == self._after:
                self._act()
            yield pair

    def count(self) -> int:
        return int(self._inner.count())

    def moved(self) -> bool:
        return bool(self._inner.moved())

    def note_push(self) -> None:
        self._inner.note_push()


def in_time(work: Callable[[], object], seconds: float = DEADLINE_S + 6) -> str:
    """The text of the error that `work` ends in, which it does within `seconds`."""
    started = time.monotonic()
    with pytest.raises(RolloutServerError) as error:
        work()
    assert time.monotonic() - started < seconds
    return str(error.value)


@pytest.mark.invariant("ROLL-039")
def test_two_servers_share_the_work_until_one_hangs_and_ends(
    servers: Callable[[int], list[Live]], stage2_kit: Stage2Kit
) -> None:
    first, second = servers(2)
    trainer = learner_of(stage2_kit, "two_servers", [first, second])
    backend, pusher = backend_of(trainer), pusher_of(trainer)
    assert backend.client.batch_size == 16, "decode_batch_size of each server"
    backend.sync(0)
    disturb([p for p in trainer.model.parameters() if p.requires_grad], 0.02)
    backend.sync(1)
    requests = requests_of(trainer, stage2_kit, 21)
    served, own = backend.generate(requests, greedy()), hf_of(trainer).generate(requests, greedy())
    assert ids_of(served) == ids_of(own)
    drawn = ids_of(backend.generate(requests, replace(LONG, max_new_tokens=40)))
    both = backend.client.servers
    backend.client.servers = both[:1]
    assert ids_of(backend.generate(requests, replace(LONG, max_new_tokens=40))) == drawn, "however many servers"
    backend.client.servers = both

    # The second hangs in the middle of a broadcast: small buckets, of which some have gone.
    pusher.bucket_bytes = 200_000
    policy, worker = pusher.policy, second.worker()
    pusher.policy = Interrupted(policy, 40, worker.suspend)
    told = in_time(lambda: backend.sync(2))
    assert "not finished within 8 s (vllm.server.timeout_s)" in told and second.base_url in told
    worker.resume()

    # It ends: the next answers name it, and it alone.
    second.stop()
    told = in_time(lambda: backend.generate(requests, greedy(8)), 5)
    assert second.base_url in told and first.base_url not in told
    assert "it has ended" in told
    told = in_time(lambda: backend.sync(3))
    assert second.base_url in told


@pytest.mark.invariant("ROLL-031")
@pytest.mark.invariant("ROLL-035")
def test_two_copies_of_the_model_behind_one_server_are_one(
    stage2_kit: Stage2Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data parallel: each worker begins its own count of requests, and takes every push."""
    monkeypatch.setenv(API_KEY_VARIABLE, KEY)
    server = start(tmp_path, key=KEY, more=["--vllm_data_parallel_size", "2"])
    try:
        trainer = build(stage2_kit, server, "two_copies")
        backend = backend_of(trainer)
        assert backend.client.servers[0].capacity == 2 and backend.client.batch_size == 16
        backend.sync(0)
        disturb([p for p in trainer.model.parameters() if p.requires_grad], 0.02)
        backend.sync(1)
        requests = requests_of(trainer, stage2_kit, 13)
        assert ids_of(backend.generate(requests, greedy())) == ids_of(hf_of(trainer).generate(requests, greedy()))
        drawn = replace(LONG, max_new_tokens=40)
        together = ids_of(backend.generate(requests, drawn))
        assert len(set(together)) > 8
        assert together == [
            *ids_of(backend.generate(requests[:5], drawn)), *ids_of(backend.generate(requests[5:], drawn))
        ]  # fmt: skip
    finally:
        server.stop()


@pytest.mark.invariant("ROLL-039")
@pytest.mark.parametrize("victim", ["worker", "app"])
def test_a_server_that_is_killed_while_it_answers_or_takes_weights(
    servers: Callable[[int], list[Live]], stage2_kit: Stage2Kit, victim: str
) -> None:
    answering, taking = servers(2)
    trainer = learner_of(stage2_kit, f"killed_answering_{victim}", [answering])
    backend = backend_of(trainer)
    backend.sync(0)
    requests = [replace(requests_of(trainer, stage2_kit, 1)[0], index=i) for i in range(64)]
    backend.client.batch_size = 64
    process = answering.worker() if victim == "worker" else answering.family()[0]
    Timer(0.7, process.kill).start()
    told = in_time(lambda: backend.generate(requests, LONG), 15)
    assert answering.base_url in told and ("log" in told)
    assert backend.client.retries <= 1

    trainer = learner_of(stage2_kit, f"killed_taking_{victim}", [taking])
    backend, pusher = backend_of(trainer), pusher_of(trainer)
    backend.sync(0)
    pusher.bucket_bytes = 200_000
    process = taking.worker() if victim == "worker" else taking.family()[0]
    pusher.policy = Interrupted(pusher.policy, 40, process.kill)
    told = in_time(lambda: backend.sync(1))
    assert taking.base_url in told


@pytest.mark.invariant("ROLL-039")
@pytest.mark.invariant("ROLL-037")
def test_a_server_that_was_restarted_is_not_believed(
    servers: Callable[[int], list[Live]], stage2_kit: Stage2Kit, tmp_path: Path
) -> None:
    """The run of two ranks ends on its own as well, with the reason once."""
    (server,) = servers(1)
    trainer = learner_of(stage2_kit, "restarted", [server])
    backend = backend_of(trainer)
    backend.sync(0)
    path = stage2_kit.write(
        "two_ranks_killed",
        row=300,
        model={"model": str(EARLY)},
        training={"max_steps": 400, "num_train_epochs": 400, "effective_batch_size": 4},
        rollout_matching={
            "rollout_backend": "vllm",
            "max_new_tokens": 96,
            "decode_batch_size": 4,
            "vllm": server.section(timeout_s=DEADLINE_S),
        },
    )
    run = subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
            "-m", "coordexp.entrypoints.train", "--config", str(path),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
    )  # fmt: skip
    log = path.parent / "run" / "logging.jsonl"
    deadline = time.monotonic() + 120
    while not (log.is_file() and len(log.read_text().splitlines()) > 2):
        assert run.poll() is None and time.monotonic() < deadline, run.stdout.read() if run.stdout else ""
        time.sleep(0.3)
    server.family()[0].kill()
    killed = time.monotonic()
    output, _ = run.communicate(timeout=60)
    assert run.returncode != 0 and time.monotonic() - killed < DEADLINE_S + 25
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert errors and all(server.base_url in line for line in errors), output[-3000:]
    server.process.wait(30)

    again = start(tmp_path, key=KEY, port=server.port)
    try:
        told = in_time(lambda: backend.generate(requests_of(trainer, stage2_kit, 2), greedy(8)), 30)
        assert "another start of the server" in told
    finally:
        again.stop()
