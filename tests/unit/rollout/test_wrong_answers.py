"""Outputs of a rollout server that are no answers to their prompts: each is refused with its sample and its fault."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordexp.rollout.drift import Expected
from coordexp.rollout.seeding import request_seed
from coordexp.rollout.types import Decoding
from coordexp.rollout.vllm_client import connect
from coordexp.rollout.wire import RolloutServerError
from tests.plugins.client_bench import OTHER, SAMPLED, Bench
from tests.plugins.rogue_answers import ANSWER_LENGTH, answer_ids, connection_to, liveness, recorded
from tests.plugins.rogue_server import Behaviour, cut, rogue, says, status

pytestmark = pytest.mark.timeout(60)
Spoil = Callable[[list[dict[str, Any]]], Any]


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
    seeds = [{"seed": request_seed(decoding.seed_base, index)} for index in range(4)]
    assert sent == seeds


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
def test_greedy_outputs_in_another_order_are_known_by_their_seeds(bench: Bench) -> None:
    """Pictures of one size have one prompt, and a greedy answer is no less for the other picture."""
    with rogue({"/infer/": bench.answers.spoilt(lambda outputs: outputs[::-1])}) as server:
        assert "outputs are in another order" in bench.refusal(bench.client(server), Decoding(16))


@pytest.mark.invariant("ROLL-017")
@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ({}, rf"/coordexp/liveness/: 404, it has no such endpoint; {OTHER}"),
        ({"/coordexp/liveness/": says({"ok": True})}, rf"/coordexp/liveness/: .*required.*{OTHER}"),
        ({"/coordexp/liveness/": says(liveness(schema_version=2))}, rf"2 is not allowed; allowed: 1; {OTHER}"),
        ({"/coordexp/liveness/": status(401)}, "COORDEXP_ROLLOUT_API_KEY"),
        ({"/coordexp/liveness/": cut(b'{"schema_version"')}, "the connection broke"),
    ],
)
def test_a_server_without_the_plugin_is_no_server(paths: dict[str, Behaviour], words: str) -> None:
    with rogue(paths) as server, pytest.raises(RolloutServerError, match=words) as refused:
        connect(connection_to(server.base_url), Expected({}))
    assert server.base_url in str(refused.value)


@pytest.mark.invariant("ROLL-017")
def test_a_server_that_says_what_is_expected_is_taken() -> None:
    paths = {"/coordexp/liveness/": says(liveness(weight_loads=4)), "/get_world_size/": says({"world_size": 3})}
    facts = {"dtype": ("float32", "model.torch_dtype")}
    with rogue(paths) as server:
        found = connect(
            connection_to(server.base_url), Expected(facts, recorded("liveness")["workers"][0]["tokenizer"])
        )
    assert (found.weight_loads, found.capacity, found.server_id) == (4, 3, liveness()["server_id"])


def test_the_recordings_are_of_this_checkpoint() -> None:
    assert Path(recorded("liveness")["workers"][0]["model"]).name == "tiny-qwen3vl"
