"""The rollout backend over an engine in the learner's own process: weights loaded in place. ROLL-060..ROLL-066.

Prompts, images, seeds and checks are those of a server's client; the canary and the digest those of a weight push. The
engine is awake while it loads or answers, where its device lets it sleep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from coordexp.bridges.inprocess_engine import EngineError
from coordexp.rollout.answers import AnswerReader
from coordexp.rollout.batching import check_length_budget
from coordexp.rollout.observed import ENGINE_KEYS, EngineObserver
from coordexp.rollout.requests import check_prompts
from coordexp.rollout.server_plugin.repeats import RepeatGuardError
from coordexp.rollout.types import (
    BackendSettings,
    Decoding,
    Observed,
    Progress,
    RolloutError,
    RolloutOutput,
    RolloutRequest,
)
from coordexp.rollout.vllm_client import Prompting, build_body
from coordexp.rollout.weight_digest import WeightDigest
from coordexp.rollout.weight_sync import Policy, PushReport, check_content

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from coordexp.rollout.canary import Canary
    from coordexp.rollout.scoring import TeacherScorer
    from coordexp.rollout.server_plugin.repeats import RepeatGuard

OBSERVED = ENGINE_KEYS
NAME = "the rollout engine in this process"
ADVICE = "it is another release of vLLM or ms-swift than this version is proven for; install requirements/*.txt"
NOT_LOADED = (
    "The load into the engine did not arrive whole: weights were left out, or the engine computes with copies that it "
    "made before; please report it, and write rollout_backend: hf or mode: server meanwhile"
)
_NEVER = -1
_QUEUED = 4
"""Batches of requests that the engine holds: whoever has finished makes room for the next, and few images wait."""


class Engine(Protocol):
    """What this module needs of `coordexp.bridges.inprocess_engine.InProcessEngine`."""

    def infer(self, requests: list[dict[str, Any]], request_config: Mapping[str, Any]) -> list[Any]:
        """One reply a request, in order."""
        ...

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take these weights, and forget what the old ones computed."""
        ...

    def sleep(self) -> None:
        """Give memory back."""
        ...

    def wake(self) -> None:
        """Take it again."""
        ...

    def describe(self) -> dict[str, Any]:
        """What it runs."""
        ...

    def close(self) -> None:
        """End it."""
        ...


@dataclass
class EngineAnswers:
    """Asks the engine, and checks what it answers. At most `batch_size` requests are decoded at once; `guard` is what
    ends answers in the engine, where something does.
    """

    engine: Engine
    prompting: Prompting
    batch_size: int
    max_model_len: int
    guard: RepeatGuard | None = None
    _reader: AnswerReader = field(init=False)

    def __post_init__(self) -> None:
        self._reader = AnswerReader(self.prompting.tokenizer, ADVICE)

    def generate(
        self, requests: Sequence[RolloutRequest], decoding: Decoding, version: int, progress: Progress | None = None
    ) -> list[RolloutOutput]:
        """One output a request, in order, each checked. Raises `RolloutError`."""
        limit = "rollout_matching.vllm.max_model_len"
        check_length_budget(requests, decoding.max_new_tokens, self.max_model_len, limit)
        outputs: list[RolloutOutput] = []
        held = self.batch_size * _QUEUED
        for start in range(0, len(requests), held):
            outputs += self._ask(requests[start : start + held], decoding, version)
            if progress is not None:
                progress(len(outputs), len(requests))
        return outputs

    def _ask(self, requests: Sequence[RolloutRequest], decoding: Decoding, version: int) -> list[RolloutOutput]:
        body = build_body(requests, decoding, self.prompting.messages)
        replies = self.engine.infer(body["infer_requests"], body["request_config"])
        outputs = []
        for request, reply in zip(requests, replies, strict=True):
            try:
                output = self._reader.read(request, reply["response"], decoding, version)
                outputs.append(replace(output, repeat_terminated=self._ended(output)))
            except (RolloutError, RepeatGuardError) as error:
                raise RolloutError(f"{NAME}: the output for {request.sample_id} {error}") from error
        return check_prompts(requests, outputs)

    def _ended(self, output: RolloutOutput) -> bool:
        """By the tokens that came back: the engine's own processor forgets an answer as it ends."""
        return self.guard is not None and self.guard.has_ended(output.response_token_ids)


@dataclass
class WeightLoader:
    """Loads the policy's weights into the engine, in the engine's `dtype`; `prove` asks it for the canary's answer and
    returns the gap, or raises.
    """

    engine: Engine
    policy: Policy
    dtype: torch.dtype
    prove: Callable[[], float]
    last: PushReport | None = field(default=None, init=False)

    def load(self) -> PushReport:
        """Bring the engine to the policy's weights, and prove it. Raises `RolloutError`."""
        started = time.monotonic()
        digest = WeightDigest()
        try:
            self.engine.load(self._told(digest))
        except EngineError as error:
            raise RolloutError(f"{NAME}: {error}. {NOT_LOADED}") from error
        check_content(digest, self.policy, self.last, self.dtype)
        gap = self.prove()
        seconds = time.monotonic() - started
        self.last = PushReport(digest.count, digest.bytes, digest.hexdigest(), seconds, gap, {})
        self.policy.note_push()
        return self.last

    def _told(self, digest: WeightDigest) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights one by one, so that no more than one layer is copied at a time, each taken into `digest`."""
        for name, weight in self.policy.weights():
            loaded = weight.to(self.dtype)
            digest.add(name, loaded)
            yield name, loaded


def build_prove(answers: EngineAnswers, canary: Canary) -> Callable[[], float]:
    """What asks the engine for the canary's answer and has it checked."""

    def prove() -> float:
        return canary.check(NAME, answers.generate([canary.request], canary.decoding, 0)[0])

    return prove


class ColocateBackend:
    """Answers from the engine; `scorer` compares some of them with the learner's own scores."""

    def __init__(self, answers: EngineAnswers, loader: WeightLoader, scorer: TeacherScorer, dtype: str) -> None:
        self.answers, self.loader = answers, loader
        self._engine, self._dtype = answers.engine, dtype
        self._policy_version = _NEVER
        self._observer = EngineObserver(scorer)

    @property
    def settings(self) -> BackendSettings:
        """The engine's data type, and what it decodes at once."""
        guarded = self.answers.guard is not None
        return BackendSettings("vllm", self._dtype, self.answers.batch_size, logprobs=True, repeat_terminate=guarded)

    @property
    def policy_version(self) -> int:
        """Version of the weights that the engine was last proven to run; -1 before the first load."""
        return self._policy_version

    def sync(self, policy_version: int) -> None:
        """Load the learner's weights, unless the engine has them. Raises `RolloutError`."""
        if policy_version == self._policy_version:
            return
        started = time.perf_counter()
        self._engine.wake()
        report = self.loader.load()
        self._policy_version = policy_version
        self._observer.note_sync(report.gap, time.perf_counter() - started)

    def generate(
        self, requests: Sequence[RolloutRequest], decoding: Decoding, progress: Progress | None = None
    ) -> list[RolloutOutput]:
        """One output a request, in order; the engine sleeps afterwards. Raises `RolloutError`."""
        self._engine.wake()
        outputs = self.answers.generate(requests, decoding, self._policy_version, progress)
        self._engine.sleep()
        if outputs:
            self._observer.note_answer(requests[0], outputs[0])
        return outputs

    def take_observed(self) -> Observed:
        """Loads, the canary, and how far the engine's log-probabilities are from the learner's."""
        return self._observer.take()

    def describe(self) -> dict[str, Any]:
        """What the engine runs, for the run's manifest."""
        return self._engine.describe()

    def close(self) -> None:
        """End the engine; nothing can be asked of it any more."""
        self._engine.close()
