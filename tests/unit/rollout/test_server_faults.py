"""A rollout server that refuses, stalls, lies or dies, on real sockets: one error that says where and what to do.

Nothing else escapes, nothing waits longer than it was told to, and only a broken /infer/ is asked again, once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.encode.vocabulary import END_OF_TURN
from coordexp.rollout import exchange
from coordexp.rollout.requests import build_requests
from coordexp.rollout.seeding import request_seed
from coordexp.rollout.types import Decoding, RolloutRequest
from coordexp.rollout.vllm_client import Prompting, VllmServerClient, connect
from coordexp.rollout.wire import RolloutServerError, ServerConnection
from tests.plugins.rogue_answers import ANSWER_LENGTH, Answers, answer_ids, connection_to, live, liveness, recorded
from tests.plugins.rogue_server import (
    Behaviour,
    Rogue,
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
    from coordexp.encode.encoder import Encoder

pytestmark = pytest.mark.timeout(60)
SIZES = [(64, 64), (96, 64), (128, 64), (64, 96)]
SAMPLED = Decoding(16, temperature=0.7, seed_base=100)
Spoil = Callable[[list[dict[str, Any]]], Any]


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory, cut_encoder: Encoder) -> list[RolloutRequest]:
    """Four prompts, no two of one length."""
    folder = tmp_path_factory.mktemp("faults")
    noise, records = np.random.default_rng(0), []
    for number, (width, height) in enumerate(SIZES):
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        found = (CoordObject("red circle", "bbox_2d", (1, 2, 30, 40)),)
        records.append(Record(f"{folder}/records.jsonl:{number + 1}", (f"{number}.png",), width, height, found))
    return build_requests(records, cut_encoder)


class Bench:
    """A client over rogue servers, and the outputs that good ones would give."""

    def __init__(self, encoder: Encoder, requests: list[RolloutRequest]) -> None:
        self.requests, self.encoder = requests, encoder
        self.stop = int(encoder.tokenizer.convert_tokens_to_ids(END_OF_TURN))
        self.answers = Answers(requests, self.stop)

    def client(self, *servers: Rogue | str, batch: int = 8, **limits: Any) -> VllmServerClient:
        urls = [server if isinstance(server, str) else server.base_url for server in servers]
        prompting = Prompting(tuple(self.encoder.messages("<image>")), self.encoder.tokenizer)
        return VllmServerClient([live(url, **limits) for url in urls], prompting, batch, 4096)

    def refusal(self, client: VllmServerClient, decoding: Decoding = SAMPLED) -> str:
        with pytest.raises(RolloutServerError) as refused:
            client.generate(self.requests, decoding, 0)
        assert type(refused.value) is RolloutServerError, "a broken connection that was tried again is an error itself"
        return str(refused.value)


@pytest.fixture(scope="module")
def bench(cut_encoder: Encoder, requests: list[RolloutRequest]) -> Bench:
    return Bench(cut_encoder, requests)


@pytest.fixture
def gone() -> str:
    """The URL of a server that has ended."""
    with rogue() as server:
        return server.base_url


@pytest.fixture
def timer() -> Iterator[Callable[[], float]]:
    started = time.monotonic()
    yield lambda: time.monotonic() - started


@pytest.mark.invariant("ROLL-018")
@pytest.mark.parametrize("decoding", [SAMPLED, Decoding(16)])
def test_good_answers_are_taken_as_they_are(bench: Bench, decoding: Decoding) -> None:
    with rogue({"/infer/": bench.answers.good()}) as server:
        client = bench.client(server, batch=3)
        outputs = client.generate(bench.requests, decoding, 7)
    for number, (request, output) in enumerate(zip(bench.requests, outputs, strict=True)):
        assert (output.sample_id, output.prompt_token_ids) == (request.sample_id, request.prompt_token_ids)
        assert list(output.response_token_ids) == answer_ids(number, bench.stop)
        assert output.token_logprobs == tuple(-0.5 - index for index in range(ANSWER_LENGTH))
        assert (output.finish_reason, output.policy_version, output.repeat_terminated) == ("stop", 7, False)
    first, second = server.calls("/infer/")
    assert [len(call.body["infer_requests"]) for call in (first, second)] == [3, 1] and client.retries == 0
    assert first.headers["authorization"] == "Bearer a-key"
    sent = [asked["coordexp"] for call in (first, second) for asked in call.body["infer_requests"]]
    seeds = [{"seed": request_seed(100, index)} for index in range(4)]
    assert sent == ([{}] * 4 if decoding.greedy else seeds)


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
def test_an_answer_without_end_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch, stated: bool) -> None:
    monkeypatch.setattr(exchange, "LARGEST_ANSWER", 10_000_000)
    behaviour = wire(b"HTTP/1.1 200 OK\r\nContent-Length: 10000001\r\n\r\n[") if stated else floods(80_000_000)
    with rogue({"/infer/": behaviour}) as server:
        client = bench.client(server)
        assert "its answer has more than 10000000 bytes" in bench.refusal(client)
    assert client.retries == 0


def choice(reply: dict[str, Any]) -> dict[str, Any]:
    return reply["response"]["choices"][0]


def with_choice(number: int = 1, **values: Any) -> Spoil:
    def spoil(outputs: list[dict[str, Any]]) -> None:
        choice(outputs[number]).update(values)

    return spoil


def with_logprob(value: Any) -> Spoil:
    def spoil(outputs: list[dict[str, Any]]) -> None:
        choice(outputs[1])["logprobs"]["content"][2]["logprob"] = value

    return spoil


def with_prompt(value: Any) -> Spoil:
    def spoil(outputs: list[dict[str, Any]]) -> None:
        outputs[1]["response"]["prompt_token_ids"] = value

    return spoil


def with_envelope(**values: Any) -> Spoil:
    def spoil(outputs: list[dict[str, Any]]) -> None:
        outputs[1]["coordexp"].update(values)

    return spoil


def without(*keys: str) -> Spoil:
    def spoil(outputs: list[dict[str, Any]]) -> None:
        inner: Any = outputs[1]
        for key in keys[:-1]:
            inner = inner[int(key)] if key.isdigit() else inner[key]
        del inner[keys[-1]]

    return spoil


def of_length(length: int) -> Spoil:
    def spoil(outputs: list[dict[str, Any]]) -> None:
        rows = choice(outputs[1])["logprobs"]["content"][:1] * length
        choice(outputs[1]).update(token_ids=[404] * length, finish_reason="length", logprobs={"content": rows})

    return spoil


NO_IDS = "the output for .*:2 holds no list of token ids in token_ids"
NO_NUMBERS = "the output for .*:2 has log-probabilities that are no finite numbers"
OTHER = "start it with scripts/train_stage2.sh or coordexp.rollout.serve of this version"
WRONG: dict[str, tuple[Spoil, str]] = {
    "no prompt_token_ids": (
        without("response", "prompt_token_ids"),
        f"required key 'prompt_token_ids' is missing; {OTHER}",
    ),
    "prompt_token_ids null": (with_prompt(None), f"prompt_token_ids.*{OTHER}"),
    "an empty prompt": (
        with_prompt([]),
        f"the output for .*:2 holds no list of token ids in prompt_token_ids .*{OTHER}",
    ),
    "a prompt of texts": (with_prompt(["a"]), "holds no list of token ids in prompt_token_ids .*'a'"),
    "no token_ids": (
        without("response", "choices", "0", "token_ids"),
        f"output 1: .*required key 'token_ids' is missing; {OTHER}",
    ),
    "token_ids null": (with_choice(token_ids=None), f"token_ids.*{OTHER}"),
    "no tokens": (with_choice(token_ids=[]), NO_IDS),
    "ids that are texts": (with_choice(token_ids=["1"] * ANSWER_LENGTH), NO_IDS),
    "ids that are booleans": (with_choice(token_ids=[True] * ANSWER_LENGTH), NO_IDS),
    "ids that are floats": (with_choice(token_ids=[404.0] * ANSWER_LENGTH), NO_IDS),
    "ids that are lists": (with_choice(token_ids=[[404]] * ANSWER_LENGTH), NO_IDS),
    "an id below 0": (with_choice(token_ids=[-1] * ANSWER_LENGTH), NO_IDS),
    "an id that is no id": (with_choice(token_ids=[2**40] * ANSWER_LENGTH), NO_IDS),
    "no log-probabilities": (without("response", "choices", "0", "logprobs"), "has 5 tokens and 0 log-probabilities"),
    "log-probabilities null": (with_choice(logprobs=None), "has 5 tokens and 0 log-probabilities"),
    "no rows of them": (with_choice(logprobs={"content": None}), "has 5 tokens and 0 log-probabilities"),
    "one too few": (with_choice(logprobs={"content": [{"logprob": -1.0}] * 4}), "5 tokens and 4 log-probabilities"),
    "rows of another form": (with_choice(logprobs={"content": [-1.0] * ANSWER_LENGTH}), NO_NUMBERS),
    "a NaN": (with_logprob(float("nan")), f"{NO_NUMBERS} .*nan"),
    "minus infinity": (with_logprob(float("-inf")), f"{NO_NUMBERS} .*inf"),
    "a log-probability null": (with_logprob(None), f"{NO_NUMBERS} .*None"),
    "a log-probability as text": (with_logprob("-0.5"), NO_NUMBERS),
    "a number beyond floats": (with_logprob(10**400), NO_NUMBERS),
    "one output too few": (lambda outputs: outputs[:3], "4 prompts were sent and 3 outputs came back"),
    "one output too many": (lambda outputs: [*outputs, outputs[0]], "4 prompts were sent and 5 outputs came back"),
    "outputs in another order": (
        lambda outputs: outputs[::-1],
        "was drawn by seed 103, not by 100: outputs are in anot",
    ),
    "another seed": (with_envelope(seed=999), "the output for .*:2 was drawn by seed 999, not by 101"),
    "no seed": (with_envelope(seed=None), "was drawn by seed None, not by 101"),
    "a restarted server": (with_envelope(server_id="f" * 32), "the output for .*:2 comes from another start"),
    "newer weights": (with_envelope(weight_loads=1), "after 1 loads of weights, and this learner has made 0: stale"),
    "no envelope": (without("coordexp"), f"output 1: .*required key 'coordexp' is missing; {OTHER}"),
    "an envelope without server": (without("coordexp", "server_id"), "required key 'server_id' is missing"),
    "stopped without its stop token": (
        with_choice(token_ids=[404] * ANSWER_LENGTH),
        "ended by stop after 5 tokens, and its ids say length after 5: answers end at the id",
    ),
    "cut with its stop token": (with_choice(finish_reason="length"), "ended by length after 5 tokens, and its ids say"),
    "cut before its limit": (of_length(15), "ended by length after 15 tokens, and 16 were allowed"),
    "longer than its limit": (of_length(17), "ended by length after 17 tokens, and 16 were allowed"),
    "another finish_reason": (with_choice(finish_reason="tool_calls"), "finish_reason"),
    "two choices": (lambda o: o[1]["response"]["choices"].append(choice(o[1])), "choices"),
}


@pytest.mark.invariant("ROLL-018")
@pytest.mark.parametrize("kind", WRONG)
def test_an_output_that_is_not_an_answer_to_its_prompt(bench: Bench, kind: str) -> None:
    spoil, words = WRONG[kind]
    with rogue({"/infer/": bench.answers.spoilt(spoil)}) as server:
        client = bench.client(server)
        text = bench.refusal(client)
    assert f"rollout server {server.base_url}/infer/: " in text and re.search(words, text), text
    assert client.retries == 0 and len(server.calls("/infer/")) == 1


@pytest.mark.invariant("ROLL-018")
def test_an_answer_as_long_as_its_limit_is_whole(bench: Bench) -> None:
    with rogue({"/infer/": bench.answers.spoilt(of_length(16))}) as server:
        outputs = bench.client(server).generate(bench.requests, SAMPLED, 0)
    assert [(output.finish_reason, len(output.response_token_ids)) for output in outputs] == [
        ("stop", 5), ("length", 16), ("stop", 5), ("stop", 5),
    ]  # fmt: skip


@pytest.mark.invariant("ROLL-018")
def test_older_weights_than_were_pushed_are_refused(bench: Bench) -> None:
    with rogue({"/infer/": bench.answers.good()}) as server:
        client = bench.client(server, loads=2)
        assert "written after 0 loads of weights, and this learner has made 2: stale weights" in bench.refusal(client)


@pytest.mark.invariant("ROLL-018")
@pytest.mark.parametrize("decoding", [SAMPLED, Decoding(16)])
def test_another_prompt_is_shown_at_its_first_token_that_differs(bench: Bench, decoding: Decoding) -> None:
    sent = bench.requests[1].prompt_token_ids
    for at, answered in ((20, [*sent[:20], 7, *sent[21:]]), (len(sent) - 1, list(sent[:-1])), (len(sent), [*sent, 9])):
        with rogue({"/infer/": bench.answers.spoilt(with_prompt(answered))}) as server:
            text = bench.refusal(bench.client(server), decoding)
        assert f"{server.base_url}/infer/: {bench.requests[1].sample_id}: " in text
        assert f"token {at} is the first that differs: {list(sent[at - 4 : at + 5])} were sent" in text
        assert f"{answered[at - 4 : at + 5]} answered. Both sides must use one checkpoint's tokenizer" in text


@pytest.mark.invariant("ROLL-018")
def test_greedy_outputs_in_another_order_are_known_by_their_prompts(bench: Bench) -> None:
    with rogue({"/infer/": bench.answers.spoilt(lambda outputs: outputs[::-1])}) as server:
        assert "has answered another prompt" in bench.refusal(bench.client(server), Decoding(16))


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


@pytest.mark.invariant("ROLL-017")
@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ({}, rf"/coordexp/liveness/: 404, it has no such endpoint; {OTHER}"),
        ({"/coordexp/liveness/": says({"ok": True})}, rf"/coordexp/liveness/: .*required.*{OTHER}"),
        ({"/coordexp/liveness/": says(liveness(schema_version=2))}, rf"2 is not allowed; allowed: 1; {OTHER}"),
        ({"/coordexp/liveness/": status(401)}, "COORDEXP_ROLLOUT_API_KEY"),
        ({"/coordexp/liveness/": BROKEN["reset"]}, "the connection broke"),
    ],
)
def test_a_server_without_the_plugin_is_no_server(paths: dict[str, Behaviour], words: str) -> None:
    from coordexp.rollout.drift import Expected

    with rogue(paths) as server, pytest.raises(RolloutServerError, match=words) as refused:
        connect(connection_to(server.base_url), Expected({}))
    assert server.base_url in str(refused.value)


@pytest.mark.invariant("ROLL-017")
def test_a_server_that_says_what_is_expected_is_taken() -> None:
    from coordexp.rollout.drift import Expected

    paths = {"/coordexp/liveness/": says(liveness(weight_loads=4)), "/get_world_size/": says({"world_size": 3})}
    facts = {"dtype": ("float32", "model.torch_dtype")}
    with rogue(paths) as server:
        found = connect(
            connection_to(server.base_url), Expected(facts, recorded("liveness")["workers"][0]["tokenizer"])
        )
    assert (found.weight_loads, found.capacity, found.server_id) == (4, 3, liveness()["server_id"])


def test_the_recordings_are_of_this_checkpoint() -> None:
    assert Path(recorded("liveness")["workers"][0]["model"]).name == "tiny-qwen3vl"
