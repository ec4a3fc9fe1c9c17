"""A rollout server that refuses, stalls, lies or dies, on real sockets: one error that says where and what to do.

Nothing else escapes, nothing waits longer than it was told to, and only a broken /infer/ is asked again, once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from coordexp.rollout import exchange
from coordexp.rollout.wire import RolloutServerError, ServerConnection
from tests.plugins.client_bench import SAMPLED, Bench
from tests.plugins.rogue_answers import connection_to
from tests.plugins.rogue_server import (
    Behaviour,
    cut,
    drips,
    ends,
    floods,
    late,
    raw,
    rogue,
    says,
    status,
    wire,
)

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def gone() -> str:
    """The URL of a server that has ended."""
    with rogue() as server:
        return server.base_url


@pytest.fixture
def timer() -> Iterator[Callable[[], float]]:
    started = time.monotonic()
    yield lambda: time.monotonic() - started


@pytest.mark.invariant("ROLL-015")
def test_a_server_that_is_not_there(bench: Bench, gone: str) -> None:
    assert not connection_to(gone).accepts()
    client = bench.client(gone)
    assert re.search(rf"{gone}/infer/: nothing can be reached there.*start it", bench.refusal(client))
    assert client.retries == 0
    with pytest.raises(RolloutServerError, match=rf"{gone}/get_world_size/: nothing can be reached there"):
        connection_to(gone).call("/get_world_size/")


STALLS: dict[str, Callable[[bytes], Behaviour]] = {
    "silent": lambda good: late(8, raw(good)),
    "dripping": lambda good: drips(good, 0.2),
    "silent after its headers": lambda good: (
        lambda call, connection: (
            connection.sendall(exchange_head(good)),
            time.sleep(8),
        )[0]
    ),
}


def exchange_head(content: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode()


@pytest.mark.invariant("ROLL-015")
@pytest.mark.parametrize("kind", STALLS)
@pytest.mark.parametrize(("path", "key"), [("/get_world_size/", "timeout_s"), ("/infer/", "infer_timeout_s")])
def test_a_slow_server_is_left_in_time(
    bench: Bench, timer: Callable[[], float], kind: str, path: str, key: str
) -> None:
    with rogue({path: STALLS[kind](b'{"world_size": 1, "padding": "................................"}')}) as server:
        limits = {"timeout_s": 5.0, "infer_timeout_s": 5.0, key: 0.6}
        if path == "/infer/":
            client = bench.client(server, **limits)
            text = bench.refusal(client)
            assert client.retries == 0 and len(server.calls(path)) == 1
        else:
            with pytest.raises(RolloutServerError) as refused:
                connection_to(server.base_url, **limits).call(path)
            text = str(refused.value)
    assert timer() < 2.5
    assert f"{server.base_url}{path}: no whole answer within 0.6 s; raise vllm.server.{key} if" in text


@pytest.mark.invariant("ROLL-015")
def test_a_limit_of_none_waits(bench: Bench) -> None:
    with rogue({"/infer/": late(1.5, bench.answers.good())}) as server:
        client = bench.client(server, timeout_s=0.5, infer_timeout_s=None)
        assert len(client.generate(bench.requests, SAMPLED, 0)) == 4


@pytest.mark.invariant("ROLL-015")
@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (status(500, "Internal Server Error"), "500 .*Internal Server Error.*; the server's log has the cause"),
        (status(500), "500 .*; the server's log has the cause"),
        (status(401, {"detail": "Invalid API key"}), "401, the API key is not its own; set COORDEXP_ROLLOUT_API_KEY"),
        (status(404, {"detail": "Not Found"}), "404, it has no such endpoint; start it with "),
        (status(422, {"detail": [{"loc": ["body"]}]}), "422 .*loc.*body"),
        (status(307, more="Location: http://10.0.0.1/infer/\r\n"), "307, it sends elsewhere .http://10.0.0.1/infer/."),
        (status(204), "204"),
        (raw(b"<html>sign in</html>", "text/html"), "its answer is no JSON but '<html>sign in</html>'"),
        (says({"detail": "x"}), "required key 'response' is missing"),
        (says([{"response": 3}]), "output 0: .*required key 'coordexp' is missing"),
        (says([]), "4 prompts were sent and 0 outputs came back"),
        (says(None), "None is not a mapping"),
        (says("text"), "'text' is not a mapping"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_another_answer_than_the_one_that_was_asked_for(bench: Bench, behaviour: Behaviour, words: str) -> None:
    with rogue({"/infer/": behaviour}) as server:
        client = bench.client(server)
        text = bench.refusal(client)
    assert f"rollout server {server.base_url}/infer/: " in text and re.search(words, text), text
    assert client.retries == 0 and len(server.calls("/infer/")) == 1, "it would answer alike again"


BROKEN = {
    "reset": cut(b'[{"response": {'),
    "reset before a word": wire(b""),
    "fewer bytes than promised": lambda call, connection: connection.sendall(exchange_head(b" " * 99) + b"[{"),
    "truncated JSON": raw(b'[{"response": {"choices": [{"token_ids": [1, 2'),
    "JSON too deep to read": raw(b"[" * 200_000),
    "no text at all": raw(b"\xff\xfe\x00"),
    "no HTTP": wire(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "a wrong length": wire(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"),
}


@pytest.mark.invariant("ROLL-016")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_answer_is_asked_for_once_more(bench: Bench, kind: str) -> None:
    with rogue({"/infer/": [BROKEN[kind], bench.answers.good()]}) as server:
        client = bench.client(server)
        assert len(client.generate(bench.requests, SAMPLED, 0)) == 4
    first, second = server.calls("/infer/")
    assert client.retries == 1 and first.body == second.body, "the same seeds, so the same answers"


@pytest.mark.invariant("ROLL-016")
@pytest.mark.parametrize("kind", BROKEN)
def test_an_answer_that_breaks_twice_is_an_error(bench: Bench, kind: str) -> None:
    with rogue({"/infer/": BROKEN[kind]}) as server:
        client = bench.client(server)
        text = bench.refusal(client)
    assert f"{server.base_url}/infer/: " in text and "look at the server's log. It was asked twice" in text
    assert client.retries == 1 and len(server.calls("/infer/")) == 2


@pytest.mark.invariant("ROLL-016")
@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("path", ["/update_flattened_params/", "/process_weights_after_loading/"])
def test_a_call_of_a_weight_push_is_never_repeated(kind: str, path: str) -> None:
    rows = {"name": "a", "shape": [1], "dtype": "torch.float32", "start_idx": 0, "end_idx": 4, "numel": 4}
    body = {"metadatas": [rows]} if path == "/update_flattened_params/" else None
    with rogue({path: BROKEN[kind]}) as server:
        with pytest.raises(RolloutServerError, match=re.escape(server.base_url + path)):
            connection_to(server.base_url).call(path, body)
        assert len(server.calls(path)) == 1


@pytest.mark.invariant("ROLL-016")
def test_a_server_that_ends_while_it_answers_is_not_asked_again(bench: Bench, timer: Callable[[], float]) -> None:
    with rogue() as server:
        server.paths["/infer/"] = [ends(lambda: server)]
        client = bench.client(server, infer_timeout_s=None)
        text = bench.refusal(client)
    assert re.search(r"/infer/: it has ended in the middle of the answer .*start it again", text)
    assert client.retries == 0 and timer() < 5


@pytest.mark.invariant("ROLL-015")
@pytest.mark.parametrize("stated", [True, False])
def test_an_answer_without_end_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, timer: Callable[[], float], stated: bool
) -> None:
    monkeypatch.setattr(exchange, "LARGEST_ANSWER", 10_000_000)
    behaviour = wire(b"HTTP/1.1 200 OK\r\nContent-Length: 10000001\r\n\r\n[") if stated else floods(80_000_000)
    with rogue({"/infer/": behaviour}) as server:
        client = bench.client(server)
        assert "its answer has more than 10000000 bytes" in bench.refusal(client)
    assert client.retries == 0 and timer() < 3, "the rest is not read"


@pytest.mark.invariant("ROLL-024")
def test_requests_go_over_servers_in_order_and_come_back_in_order(bench: Bench) -> None:
    with rogue({"/infer/": late(0.5, bench.answers.good())}) as slow, rogue({"/infer/": bench.answers.good()}) as fast:
        outputs = bench.client(slow, fast).generate(bench.requests, SAMPLED, 0)
        sent = [
            [asked["coordexp"]["seed"] for asked in server.calls("/infer/")[0].body["infer_requests"]]
            for server in (slow, fast)
        ]
    assert [output.sample_id for output in outputs] == [request.sample_id for request in bench.requests]
    assert [output.response_token_ids[0] for output in outputs] == [400, 401, 402, 403]
    assert sent == [[100, 101], [102, 103]], "seeds are those of one server"
    assert abs(slow.calls("/infer/")[0].at - fast.calls("/infer/")[0].at) < 0.4, "they work at the same time"


@pytest.mark.invariant("ROLL-024")
@pytest.mark.parametrize("order", [0, 1])
def test_one_of_two_servers_that_is_down_is_named_alone_and_at_once(
    bench: Bench, gone: str, timer: Callable[[], float], order: int
) -> None:
    with rogue({"/infer/": late(20, bench.answers.good())}) as slow:
        client = bench.client(*([gone, slow] if order else [slow, gone]), infer_timeout_s=None)
        text = bench.refusal(client)
    assert gone in text and slow.base_url not in text
    assert timer() < 5, "the other is not waited for"


@pytest.mark.invariant("ROLL-024")
def test_retries_of_several_servers_are_counted_together(bench: Bench) -> None:
    script = {"/infer/": [BROKEN["reset"], bench.answers.good()]}
    with rogue(script) as first, rogue(script) as second:
        client = bench.client(first, second)
        assert len(client.generate(bench.requests, SAMPLED, 0)) == 4
    assert client.retries == 2


@pytest.mark.invariant("ROLL-015")
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_has_no_part(bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with rogue() as proxy, rogue({"/infer/": bench.answers.good()}) as server:
        monkeypatch.setenv(name, proxy.base_url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert len(bench.client(server).generate(bench.requests, SAMPLED, 0)) == 4
    assert proxy.seen == []


@pytest.mark.invariant("ROLL-015")
@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "127.0.0.1:80", "ftp://127.0.0.1:80", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(RolloutServerError, match=r"servers\[\]\.base_url: "):
        ServerConnection(url, None, 1.0, None)


@pytest.mark.invariant("ROLL-015")
def test_a_host_that_is_unknown_and_a_port_that_is_silent(timer: Callable[[], float]) -> None:
    for url in ("http://no-such-host.invalid:8000", "http://a..b:8000"):
        with pytest.raises(
            RolloutServerError, match=rf"{url}/get_world_size/: nothing can be reached there: .*start it"
        ):
            ServerConnection(url, None, 2.0, None).call("/get_world_size/")
    assert timer() < 10


@pytest.mark.invariant("ROLL-015")
def test_only_calls_that_ask_for_the_key_carry_it() -> None:
    with rogue({"/health/": says({"status": "ok"}), "/get_world_size/": says({"world_size": 1})}) as server:
        connection = connection_to(server.base_url)
        connection.call("/health/")
        connection.call("/get_world_size/")
        ServerConnection(server.base_url, None, 5.0, None).call("/get_world_size/")
    keys = [call.headers.get("authorization") for call in server.seen]
    assert keys == [None, "Bearer a-key", None]
    assert [(call.method, call.path) for call in server.seen] == [("GET", "/health/")] + [
        ("GET", "/get_world_size/")
    ] * 2


@pytest.mark.invariant("ROLL-015")
def test_waiting_for_a_server_ends_when_it_answers_or_in_time(gone: str, timer: Callable[[], float]) -> None:
    with rogue({"/health/": [status(503), BROKEN["reset"], says({"status": "ok"})]}) as server:
        connection_to(server.base_url).wait_until_ready(10, interval=0.05)
        assert len(server.calls("/health/")) == 3
    with pytest.raises(
        RolloutServerError, match=rf"{gone} is not ready after 0.5 s .vllm.server.timeout_s.: .*reached"
    ):
        connection_to(gone).wait_until_ready(0.5, interval=0.05)
    assert timer() < 5
