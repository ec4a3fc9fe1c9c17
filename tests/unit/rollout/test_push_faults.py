"""A weight push that hangs, dies, sends the wrong thing or is not believed: one error in time, on real sockets."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from coordexp.rollout.tasks import run_together, within
from coordexp.rollout.types import RolloutError
from coordexp.rollout.weight_link import WeightLink
from coordexp.rollout.weight_sync import WeightPusher, WeightSync
from coordexp.rollout.wire import RolloutServerError, ServerConnection
from tests.plugins.rogue_answers import connection_to, liveness
from tests.plugins.rogue_server import Rogue, free_port, rogue, says
from tests.plugins.weight_peers import JOINS, MEETS, NAMES_THE_BARRIER, RECEIVES, Peer, absent

pytestmark = pytest.mark.timeout(120)
LIMIT = 3.0


@dataclass
class Weights:
    """A policy of a few tensors."""

    tensors: dict[str, torch.Tensor] = field(
        default_factory=lambda: {
            "a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(5), "c": torch.zeros(2, 2).t() + 1e-30,
        }
    )  # fmt: skip
    has_moved: bool = False
    missing: int = 0
    noted: int = 0

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.tensors.items()

    def count(self) -> int:
        return len(self.tensors) + self.missing

    def moved(self) -> bool:
        return self.has_moved

    def note_push(self) -> None:
        self.noted += 1
        self.has_moved = False


class Link:
    """In the place of a `WeightLink`: notes what is done with it."""

    def __init__(self, loaded: Callable[[], None] = lambda: None) -> None:
        self.loaded = loaded
        self.done: list[str] = []
        self.sent: dict[str, torch.Tensor] = {}

    def open(self) -> None:
        self.done.append("open")

    def push(self, bucket: list[tuple[str, torch.Tensor]]) -> None:
        self.done.append("push")
        self.sent |= dict(bucket)

    def finish(self) -> None:
        self.done.append("finish")
        self.loaded()


@dataclass
class Bench:
    """A pusher over a server that counts loads as it is told, and the stub link to it."""

    server: Rogue
    policy: Weights
    link: Link
    told: list[int]
    """Loads that the server has had."""
    each: list[int]
    """How many a push adds."""
    gap: Callable[[ServerConnection], float] = lambda connection: 0.25

    def pusher(self, **changes: Any) -> WeightPusher:
        connection = connection_to(self.server.base_url, timeout_s=LIMIT)
        parts: dict[str, Any] = {
            "servers": [connection], "links": [self.link], "policy": self.policy, "dtype": torch.float32,
            "prove": self.gap, "weight_loads": {connection.base_url: 0},
        }  # fmt: skip
        return WeightPusher(**parts | changes)


@pytest.fixture
def hold() -> Iterator[threading.Event]:
    """What a test's work waits for; it is let go when the test is over."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def bench() -> Iterator[Bench]:
    told, each = [0], [1]

    def answer(call: Any) -> dict[str, Any]:
        return liveness(weight_loads=told[0])

    with rogue({"/coordexp/liveness/": says(answer)}) as server:
        yield Bench(server, Weights(), Link(lambda: told.__setitem__(0, told[0] + each[0])), told, each)


def refusal(work: Callable[[], Any]) -> str:
    with pytest.raises(RolloutServerError) as refused:
        work()
    return str(refused.value)


@pytest.mark.invariant("ROLL-029")
def test_work_that_ends_in_time_gives_its_result() -> None:
    assert within(5, "work", lambda: True, lambda: 7) == 7


@pytest.mark.invariant("ROLL-029")
def test_work_that_hangs_is_left_at_the_deadline(hold: threading.Event) -> None:
    started = time.monotonic()
    text = refusal(lambda: within(0.5, "weight push to X", lambda: True, hold.wait))
    assert time.monotonic() - started < 2
    assert re.search(r"weight push to X: not finished within 0.5 s \(vllm.server.timeout_s\).*look at its log", text)
    left = [thread for thread in threading.enumerate() if thread.name == "weight push to X"]
    assert [thread.daemon for thread in left] == [True], "it does not keep the process"


@pytest.mark.invariant("ROLL-029")
def test_work_whose_server_ends_is_left_at_once(hold: threading.Event) -> None:
    started = time.monotonic()
    with rogue() as server:
        connection = connection_to(server.base_url)
        threading.Timer(0.3, server.end).start()
        text = refusal(lambda: within(20, "weight push to X", connection.accepts, hold.wait))
    assert time.monotonic() - started < 5
    assert "weight push to X: the server has ended in the middle of it; its log has the cause" in text


@pytest.mark.invariant("ROLL-029")
def test_an_error_of_the_work_is_raised_as_it_is() -> None:
    error = RolloutError("told")

    def work() -> None:
        raise error

    for run in (lambda: within(5, "work", lambda: True, work), lambda: run_together([("work", work)])):
        with pytest.raises(RolloutError) as raised:
            run()
        assert raised.value is error


@pytest.mark.invariant("ROLL-029")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_the_program_shows_its_traceback_and_ends_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise KeyError("a name of the test's own")

    for run in (lambda: within(5, "work", lambda: True, work), lambda: run_together([("work", work)])):
        assert "work: failed by a fault of the program; its traceback stands above" in refusal(run)


@pytest.mark.invariant("ROLL-020")
def test_a_push_brings_every_tensor_bit_by_bit_and_in_order() -> None:
    peer, policy = Peer(), Weights()
    with rogue(peer.paths()) as server:
        connection = connection_to(server.base_url, timeout_s=30)
        link = WeightLink(connection, free_port(), torch.device("cpu"))
        pusher = WeightPusher([connection], [link], policy, torch.float32, lambda _: 0.5, {connection.base_url: 0})
        first = pusher.push()
        policy.tensors["b"] = torch.full((5,), 2.0)
        second = pusher.push()
    rows, flat = peer.received[1]
    for row in rows:
        sent = policy.tensors[row["name"]]
        found = flat[row["start_idx"] : row["end_idx"]].view(torch.float32).reshape(row["shape"])
        assert torch.equal(found, sent) and row["dtype"] == "torch.float32"
    assert (first.tensors, first.nbytes, first.gap, first.weight_loads) == (3, 60, 0.5, {server.base_url: 1})
    assert first.digest != second.digest and second.weight_loads == {server.base_url: 2} and policy.noted == 2
    caches = ["/reset_prefix_cache/", "/reset_encoder_cache/", "/reset_mm_cache/"]
    once = ["/update_flattened_params/", "/process_weights_after_loading/", *caches]
    assert peer.order == ["/close_communicator/", "/init_communicator/", *once, *once]
    assert server.calls("/init_communicator/")[0].body["world_size"] == 2


@pytest.mark.invariant("ROLL-029")
@pytest.mark.parametrize(
    ("until", "words"),
    [
        (None, r"port \d+ cannot be joined"),
        (JOINS, r"port \d+ broke in the middle of a broadcast"),
        (RECEIVES, r"port \d+ broke in the middle of a broadcast"),
        (NAMES_THE_BARRIER, r"port \d+ broke in the middle of a broadcast|not finished within 3 s"),
    ],
)
def test_a_push_whose_peers_do_not_come_ends_in_time(until: int | None, words: str) -> None:
    paths = absent() if until is None else Peer(until).paths()
    with rogue(paths) as server:
        connection = connection_to(server.base_url, timeout_s=LIMIT)
        link = WeightLink(connection, free_port(), torch.device("cpu"))
        pusher = WeightPusher([connection], [link], Weights(), torch.float32, lambda _: 0.0, {server.base_url: 0})
        started = time.monotonic()
        text = refusal(pusher.push)
    assert time.monotonic() - started < LIMIT + 1.5
    assert server.base_url in text and re.search(words, text) and "log" in text, text
    assert ".group_port) is not free" in text or "vllm.server.timeout_s" in text


@pytest.mark.invariant("ROLL-029")
def test_something_else_at_the_port_of_the_group() -> None:
    with rogue(absent()) as server, socket.create_server(("127.0.0.1", 0)) as silent:
        connection = connection_to(server.base_url, timeout_s=LIMIT)
        link = WeightLink(connection, silent.getsockname()[1], torch.device("cpu"))
        pusher = WeightPusher([connection], [link], Weights(), torch.float32, lambda _: 0.0, {server.base_url: 0})
        started = time.monotonic()
        text = refusal(pusher.push)
    assert time.monotonic() - started < LIMIT + 1.5 and server.base_url in text


@pytest.mark.invariant("ROLL-029")
def test_a_server_that_is_killed_in_the_middle_of_a_broadcast() -> None:
    peer = Peer(RECEIVES)
    with rogue(peer.paths()) as server:
        connection = connection_to(server.base_url, timeout_s=40)
        link = WeightLink(connection, free_port(), torch.device("cpu"))
        pusher = WeightPusher([connection], [link], Weights(), torch.float32, lambda _: 0.0, {server.base_url: 0})
        threading.Timer(2.0, server.end).start()
        started = time.monotonic()
        text = refusal(pusher.push)
    assert time.monotonic() - started < 10
    assert re.search("ended in the middle of it|broke in the middle|nothing can be reached", text), text


@pytest.mark.invariant("ROLL-029")
def test_a_report_of_a_good_push(bench: Bench) -> None:
    loads = {bench.server.base_url: 0}
    pusher = bench.pusher(dtype=torch.bfloat16, weight_loads=loads)
    report = pusher.push()
    assert (report.tensors, report.nbytes, report.gap) == (3, 30, 0.25)
    assert bench.link.done == ["open", "push", "finish"] and bench.policy.noted == 1
    assert {weight.dtype for weight in bench.link.sent.values()} == {torch.bfloat16}
    assert report.weight_loads == loads == {bench.server.base_url: 1} and pusher.last is report


@pytest.mark.invariant("ROLL-022")
@pytest.mark.parametrize("missing", [1, -1])
def test_another_number_of_tensors_is_refused(bench: Bench, missing: int) -> None:
    bench.policy.missing = missing
    text = refusal(bench.pusher().push)
    assert f"3 tensors were pushed, and the policy has {3 + missing}: the server would run a mixture" in text
    assert bench.policy.noted == 0


@pytest.mark.invariant("ROLL-022")
def test_the_same_weights_after_an_update_are_refused(bench: Bench) -> None:
    pusher = bench.pusher()
    bench.policy.has_moved = True
    pusher.push()
    pusher.push()
    assert bench.policy.noted == 2, "nothing has moved in between, and the first push has none before it"
    bench.policy.has_moved = True
    text = refusal(pusher.push)
    assert "all 3 tensors are those of the last push, though the optimizer has made updates" in text
    bench.policy.tensors["a"] = bench.policy.tensors["a"].clone().index_fill_(0, torch.tensor([0]), 9.0)
    bench.told[0] = 2
    assert pusher.push().weight_loads == {bench.server.base_url: 3}


@pytest.mark.invariant("ROLL-022")
def test_an_update_that_vanishes_in_the_pushed_type_is_refused(bench: Bench) -> None:
    pusher = bench.pusher(dtype=torch.bfloat16)
    pusher.push()
    bench.policy.tensors["b"] = bench.policy.tensors["b"] + 1e-6
    bench.policy.has_moved = True
    assert "or updates vanish in torch.bfloat16" in refusal(pusher.push)


@pytest.mark.invariant("ROLL-022")
@pytest.mark.parametrize("told", [0, 2, 7])
def test_a_server_that_counts_other_loads_is_refused(bench: Bench, told: int) -> None:
    bench.each[0] = told
    text = refusal(bench.pusher().push)
    assert f"{bench.server.base_url} counts {told} loads of weights where 1 are this learner's" in text
    assert "another learner pushes to it, or it was restarted" in text and bench.policy.noted == 0


@pytest.mark.invariant("ROLL-022")
def test_a_server_that_another_learner_has_pushed_to_is_sent_nothing(bench: Bench) -> None:
    bench.told[0] = 1
    assert "counts 1 loads of weights where 0 are this learner's" in refusal(bench.pusher().push)
    assert bench.link.done == []


@pytest.mark.invariant("ROLL-022")
def test_a_canary_that_fails_or_hangs_fails_the_push(bench: Bench, hold: threading.Event) -> None:
    def fails(connection: ServerConnection) -> float:
        raise RolloutServerError(f"{connection.base_url} does not run the learner's weights")

    assert "does not run the learner's weights" in refusal(bench.pusher(prove=fails).push)
    bench.told[0] = 0
    started = time.monotonic()
    text = refusal(bench.pusher(prove=lambda _: float(hold.wait())).push)
    assert "canary of http" in text and "not finished within" in text and time.monotonic() - started < LIMIT + 1.5
    assert bench.policy.noted == 0


@pytest.mark.invariant("ROLL-022")
def test_several_servers_are_pushed_and_proven_each_and_the_largest_gap_counts() -> None:
    with ExitStack() as stack:
        paths = {"/coordexp/liveness/": [says(liveness(weight_loads=count)) for count in range(2)]}
        servers = [connection_to(stack.enter_context(rogue(paths)).base_url) for _ in range(2)]
        links, asked = [Link(), Link()], []

        def prove(connection: ServerConnection) -> float:
            asked.append(connection.base_url)
            return 0.1 * len(asked)

        loads = {server.base_url: 0 for server in servers}
        report = WeightPusher(servers, links, Weights(), torch.float32, prove, loads).push()
    assert report.gap == pytest.approx(0.2) and asked == [server.base_url for server in servers]
    assert [link.done for link in links] == [["open", "push", "finish"]] * 2
    assert report.weight_loads == dict.fromkeys(loads, 1)


@pytest.mark.invariant("ROLL-022")
def test_one_of_two_servers_that_ends_is_told(bench: Bench) -> None:
    with rogue({"/coordexp/liveness/": says(liveness())}) as other:
        gone = connection_to(other.base_url, timeout_s=LIMIT)
    connection = connection_to(bench.server.base_url, timeout_s=LIMIT)
    loads = {bench.server.base_url: 0, gone.base_url: 0}
    pusher = bench.pusher(servers=[connection, gone], links=[Link(), Link()], weight_loads=loads)
    text = refusal(pusher.push)
    assert f"{gone.base_url}/coordexp/liveness/: nothing can be reached" in text and loads[bench.server.base_url] == 0


@pytest.mark.invariant("ROLL-029")
def test_alone_a_push_is_what_its_pusher_does(bench: Bench) -> None:
    sync = WeightSync(bench.pusher())
    assert sync.run().tensors == 3
    bench.policy.missing = 1
    assert "the policy has 4" in refusal(sync.run)


def test_the_peer_of_these_tests_knows_its_steps() -> None:
    assert JOINS < RECEIVES < NAMES_THE_BARRIER < MEETS
