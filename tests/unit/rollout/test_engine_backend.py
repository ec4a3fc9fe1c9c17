"""The backend over an engine of this process, on a stand-in: when it sleeps, and what it may not answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from coordexp.bridges.inprocess_engine import EngineError
from coordexp.config.rollout_sections import RepeatTerminateConfig
from coordexp.rollout.colocate import ColocateBackend, EngineAnswers, WeightLoader
from coordexp.rollout.scoring import TokenScores
from coordexp.rollout.seeding import request_seed
from coordexp.rollout.server_plugin.guard import build_guard
from coordexp.rollout.types import Decoding, RolloutError
from coordexp.rollout.vllm_client import Prompting
from tests.plugins.client_bench import SAMPLED, Bench
from tests.plugins.rogue_answers import answer_ids, output
from tests.unit.rollout.test_push_faults import Weights

Spoil = Callable[[list[dict[str, Any]]], Any]


@dataclass
class Engine:
    """Answers as a good engine does, after `spoil`; notes what is done with it."""

    bench: Bench
    spoil: Spoil = lambda replies: None
    refuses: str = ""
    asleep: bool = True
    loaded: dict[str, torch.Tensor] = field(default_factory=dict)
    calls: list[Any] = field(default_factory=list)

    def infer(self, requests: list[dict[str, Any]], request_config: Mapping[str, Any]) -> list[Any]:
        assert not self.asleep, "asked in its sleep"
        self.calls.append(("infer", len(requests)))
        self.asked, self.config = requests, request_config
        replies = []
        for asked in requests:
            number, prompt = self.bench.answers.prompts[asked["images"][0]]
            replies.append(output(prompt, answer_ids(number, self.bench.stop), None))
        self.spoil(replies)
        return replies

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        assert not self.asleep, "loaded in its sleep"
        self.calls.append("load")
        self.loaded = dict(weights)
        if self.refuses:
            raise EngineError(self.refuses)

    def sleep(self) -> None:
        self.calls.append("sleep")
        self.asleep = True

    def wake(self) -> None:
        self.calls.append("wake")
        self.asleep = False

    def describe(self) -> dict[str, Any]:
        return {"engine": "a stand-in"}

    def close(self) -> None:
        self.calls.append("close")


class Scorer:
    """Gives every token half a nat less than the engine's first, and so on."""

    def score(self, request: Any, answer: Sequence[int]) -> TokenScores:
        logprobs = tuple(-0.25 - index for index in range(len(answer)))
        return TokenScores(logprobs, tuple(answer), logprobs)


@dataclass
class Made:
    """The backend and what it is made of; `gaps` are those that the canary will find."""

    engine: Engine
    policy: Weights
    gaps: list[float]
    backend: ColocateBackend


def make(bench: Bench, *gaps: float, batch: int = 1, **engine: Any) -> Made:
    own, policy, found = Engine(bench, **engine), Weights(), list(gaps)
    prompting = Prompting(tuple(bench.encoder.messages("<image>")), bench.encoder.tokenizer)
    answers = EngineAnswers(own, prompting, batch, 1024)
    loader = WeightLoader(own, policy, torch.float32, lambda: found.pop(0))
    return Made(own, policy, found, ColocateBackend(answers, loader, Scorer(), "float32"))  # type: ignore[arg-type]


@pytest.mark.invariant("ROLL-063")
def test_the_engine_is_awake_while_it_loads_or_answers_and_at_no_other_time(bench: Bench) -> None:
    made = make(bench, 0.1, 0.3, batch=2)
    made.backend.sync(0)
    made.backend.generate(bench.requests, SAMPLED)
    assert made.engine.calls == ["wake", "load", "wake", ("infer", 4), "sleep"] and made.engine.asleep
    made.engine.calls.clear()
    made.backend.sync(0)
    assert made.engine.calls == [], "the weights are those that it has"
    made.backend.generate(bench.requests[:1], SAMPLED)
    assert made.engine.calls == ["wake", ("infer", 1), "sleep"]


@pytest.mark.invariant("ROLL-063")
def test_four_batches_are_held_by_the_engine_at_once(bench: Bench) -> None:
    made, told = make(bench), []
    many = [replace(bench.requests[index % 4], index=index) for index in range(6)]
    made.backend.generate(many, SAMPLED, lambda done, total: told.append((done, total)))
    assert [call for call in made.engine.calls if call not in ("wake", "sleep")] == [("infer", 4), ("infer", 2)]
    assert told == [(4, 6), (6, 6)]
    assert [asked["coordexp"] for asked in made.engine.asked] == [
        {"seed": request_seed(SAMPLED.seed_base, index)} for index in (4, 5)
    ]


@pytest.mark.invariant("ROLL-063")
def test_what_is_seen_of_an_engine_is_told_once(bench: Bench) -> None:
    made = make(bench, 0.1, 0.3, 0.2)
    for version in (0, 4, 5):
        made.backend.sync(version)
    outputs = made.backend.generate(bench.requests, SAMPLED)
    assert {output.policy_version for output in outputs} == {5} and made.backend.policy_version == 5
    observed = dict(made.backend.take_observed())
    assert observed.pop("time/rollout_sync_s")[0] > 0
    assert observed == {
        "rollout/weight_pushes_total": (3.0, 0.0),
        "rollout/canary_gap_max": (0.3, 0.0),
        "rollout/logprob_gap_mean": (5 * 0.25, 5),
    }
    assert made.backend.take_observed() == {} and made.policy.noted == 3
    assert made.backend.settings.name == "vllm" and made.backend.settings.decode_batch_size == 1


@pytest.mark.invariant("ROLL-064")
@pytest.mark.parametrize("version", [3, 4])
def test_weights_that_do_not_move_are_found_by_their_digest(bench: Bench, version: int) -> None:
    made = make(bench, 0.1, 0.1)
    made.backend.sync(0)
    made.policy.has_moved = version == 4
    if version == 3:
        made.backend.sync(version)
        return
    with pytest.raises(RolloutError, match="all 3 tensors are those of the last push"):
        made.backend.sync(version)
    assert made.backend.policy_version == 0 and made.policy.noted == 1


@pytest.mark.invariant("ROLL-064")
def test_weights_that_were_left_out_are_missed(bench: Bench) -> None:
    made = make(bench, 0.1)
    made.policy.missing = 1
    with pytest.raises(RolloutError, match="3 tensors were pushed, and the policy has 4"):
        made.backend.sync(0)
    refusing = make(bench, 0.1, refuses="2 weights of the engine were not given, x among them")
    with pytest.raises(RolloutError, match=r"engine in this process: 2 weights .* x among them\. The load .*report it"):
        refusing.backend.sync(0)
    assert refusing.gaps == [0.1] and refusing.policy.noted == 0 and refusing.backend.policy_version == -1


@pytest.mark.invariant("ROLL-064")
def test_weights_are_given_in_the_engine_s_type(bench: Bench) -> None:
    made = make(bench, 0.1)
    made.backend.loader.dtype = torch.bfloat16
    made.backend.sync(0)
    assert {tensor.dtype for tensor in made.engine.loaded.values()} == {torch.bfloat16}
    assert made.engine.loaded.keys() == made.policy.tensors.keys()


def choice(reply: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = reply["response"]["choices"][0]
    return found


def another_prompt(replies: list[dict[str, Any]]) -> None:
    replies[1]["response"]["prompt_token_ids"][3] += 1


def swapped(replies: list[dict[str, Any]]) -> None:
    replies[0], replies[1] = replies[1], replies[0]


@pytest.mark.invariant("ROLL-065")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (another_prompt, "has answered another prompt"),
        (swapped, "has answered another prompt"),
        (lambda replies: choice(replies[1]).update(token_ids=None), "holds no list of token ids in token_ids"),
        (lambda replies: choice(replies[1])["logprobs"]["content"][2].update(logprob=math.nan), "no finite numbers"),
        (lambda replies: choice(replies[1])["logprobs"]["content"].pop(), "has 5 tokens and 4 log-probabilities"),
        (lambda replies: choice(replies[1]).update(finish_reason="length"), "ended by length after 5 tokens"),
    ],
)
def test_what_is_no_answer_is_refused_with_its_sample(bench: Bench, spoil: Spoil, words: str) -> None:
    made = make(bench, spoil=spoil)
    with pytest.raises(RolloutError, match=words) as refused:
        made.backend.generate(bench.requests, SAMPLED)
    assert bench.requests[1].sample_id in str(refused.value) or spoil is swapped


@pytest.mark.invariant("ROLL-065")
def test_an_answer_that_went_on_where_it_was_to_end_is_refused(bench: Bench) -> None:
    repeated = [404, 404, 404, 405, bench.stop]
    made = make(bench, spoil=lambda replies: choice(replies[1]).update(token_ids=repeated))
    limits = RepeatTerminateConfig(enabled=True, min_new_tokens=0, max_consecutive_token_repeats=2)
    answers = replace(made.backend.answers, guard=build_guard(limits, bench.encoder.tokenizer))
    made.engine.wake()
    with pytest.raises(RolloutError, match="the guard was not at work"):
        answers.generate(bench.requests, SAMPLED, 0)


@pytest.mark.invariant("ROLL-065")
def test_a_prompt_that_leaves_no_room_is_refused_before_any_work(bench: Bench) -> None:
    made = make(bench)
    with pytest.raises(RolloutError, match=r"exceeds rollout_matching\.vllm\.max_model_len"):
        made.backend.generate(bench.requests, Decoding(1024))
    assert ("infer", 4) not in made.engine.calls
