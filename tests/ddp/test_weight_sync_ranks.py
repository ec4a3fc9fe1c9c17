"""Two gloo ranks bring servers to new weights: one pushes, both go on with its report, or both raise what it raises."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing as mp

from coordexp.rollout.types import RolloutError
from coordexp.rollout.vllm_server import VllmServerBackend
from coordexp.rollout.weight_link import WeightLink
from coordexp.rollout.weight_sync import PushReport, WeightPusher, WeightSync
from coordexp.rollout.wire import RolloutServerError
from tests.plugins.rogue_answers import connection_to
from tests.plugins.rogue_server import free_port, rogue
from tests.plugins.weight_peers import RECEIVES, Peer

pytestmark = [pytest.mark.ddp, pytest.mark.timeout(300)]
REPORT = PushReport(3, 60, "d" * 64, 0.5, 0.25, {"http://a:1": 4})
LIMIT = 3.0


class Weights:
    """A policy of one tensor that never moves."""

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield "a", torch.ones(3)

    def count(self) -> int:
        return 1

    def moved(self) -> bool:
        return False

    def note_push(self) -> None:
        pass


class Told:
    """A pusher that does what its list says, one push after the other."""

    def __init__(self, *steps: PushReport | BaseException) -> None:
        self.steps = list(steps)

    def push(self) -> PushReport:
        time.sleep(0.3)
        step = self.steps.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step


def succeeding(rank: int) -> Any:
    sync = WeightSync(Told(REPORT, REPORT) if rank == 0 else None)  # type: ignore[arg-type]
    return [(report.weight_loads, report.gap, report.digest) for report in (sync.run(), sync.run())]


def failing(rank: int) -> Any:
    told = Told(REPORT, RolloutServerError("http://a:1 does not run the learner's weights"))
    sync = WeightSync(told if rank == 0 else None)  # type: ignore[arg-type]
    sync.run()
    sync.run()
    return "went on"


def failing_by_a_request(rank: int) -> Any:
    sync = WeightSync(Told(RolloutError("record:1: the prompt is empty")) if rank == 0 else None)  # type: ignore[arg-type]
    return sync.run()


def hanging(rank: int) -> Any:
    """The real pusher and link, whose peer takes the tensor and never meets."""
    if rank != 0:
        return WeightSync(None).run()
    with rogue(Peer(RECEIVES).paths()) as server:
        connection = connection_to(server.base_url, timeout_s=LIMIT)
        link = WeightLink(connection, free_port(), torch.device("cpu"))
        return WeightSync(
            WeightPusher([connection], [link], Weights(), torch.float32, lambda _: 0.0, {server.base_url: 0})
        ).run()


def pushing(rank: int) -> Any:
    """The backend of each rank: what it pushes is asked for by every rank alike, and known to every rank."""
    peer = Peer()
    url = "http://127.0.0.1:1"
    client = SimpleNamespace(weight_loads={url: 0}, retries=0, batch_size=2, watch=None)
    told = Told(PushReport(1, 12, "a" * 64, 0.1, 0.125, {url: 1}), PushReport(1, 12, "b" * 64, 0.1, 0.0625, {url: 2}))
    sync = WeightSync(told if rank == 0 else None)  # type: ignore[arg-type]
    backend = VllmServerBackend(client, sync, SimpleNamespace(), "float32")  # type: ignore[arg-type]
    versions = [backend.policy_version]
    for version in (0, 0, 7, 7):
        backend.sync(version)
        versions.append(backend.policy_version)
    observed = {key: value for key, value in backend.take_observed().items() if not key.startswith("time/")}
    return [versions, client.weight_loads[url], observed, len(peer.order), backend.take_observed()]


def exchanging(rank: int) -> Any:
    """A real push with rank 1 waiting for it."""
    if rank != 0:
        return WeightSync(None).run().weight_loads.popitem()[1]
    peer = Peer()
    with rogue(peer.paths()) as server:
        connection = connection_to(server.base_url, timeout_s=30)
        link = WeightLink(connection, free_port(), torch.device("cpu"))
        pusher = WeightPusher([connection], [link], Weights(), torch.float32, lambda _: 0.0, {server.base_url: 0})
        return WeightSync(pusher).run().weight_loads[server.base_url]


CASES: dict[str, Callable[[int], Any]] = {
    case.__name__: case for case in (succeeding, failing, failing_by_a_request, hanging, pushing, exchanging)
}


def run_rank(rank: int, folder: str) -> None:
    """Every case in turn; one that left a rank waiting would hold up the next."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    ends: dict[str, list[Any]] = {}
    for name, case in CASES.items():
        dist.barrier()
        started = time.monotonic()
        try:
            outcome: list[Any] = ["value", case(rank)]
        except RolloutError as error:
            outcome = [type(error).__name__, str(error)]
        ends[name] = [*outcome, time.monotonic() - started]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(ends))
    dist.destroy_process_group()


Both = Callable[[str], "list[list[Any]]"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """What each rank's end of a case is: kind, value or text, seconds."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_rank, args=(str(folder),), nprocs=2)
    ends = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return lambda name: [end[name] for end in ends]


@pytest.mark.invariant("ROLL-023")
def test_both_ranks_have_the_report_of_a_push(both: Both) -> None:
    for kind, value, _ in both("succeeding"):
        assert kind == "value" and value == [[REPORT.weight_loads, REPORT.gap, REPORT.digest]] * 2


@pytest.mark.invariant("ROLL-023")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("failing", "http://a:1 does not run the learner's weights"),
        ("failing_by_a_request", "record:1: the prompt is empty"),
    ],
)
def test_both_ranks_raise_what_rank_0_raises(both: Both, name: str, text: str) -> None:
    for kind, told, seconds in both(name):
        assert (kind, told) == ("RolloutServerError", text) and seconds < 10


@pytest.mark.invariant("ROLL-023")
def test_a_push_that_hangs_ends_both_ranks_in_time(both: Both) -> None:
    (_, first, _), (_, second, _) = outcomes = both("hanging")
    assert first == second and "broke in the middle of a broadcast" in first
    for kind, _, seconds in outcomes:
        # The other side of it is the import of vLLM.
        assert kind == "RolloutServerError" and seconds < LIMIT + 30


@pytest.mark.invariant("ROLL-023")
def test_every_rank_asks_for_the_same_pushes_and_knows_their_loads(both: Both) -> None:
    for kind, (versions, loads, observed, _, again), _ in both("pushing"):
        assert kind == "value" and versions == [-1, 0, 0, 7, 7] and loads == 2
        assert observed["rollout/weight_pushes_total"] == [2.0, 0.0]
        assert observed["rollout/canary_gap_max"][0] == 0.125
        assert again == {"rollout/server_retries_total": [0.0, 0.0]}, "each observation is told once"


@pytest.mark.invariant("ROLL-023")
def test_a_rank_waits_for_a_real_push(both: Both) -> None:
    assert [outcome[:2] for outcome in both("exchanging")] == [["value", 1]] * 2
