"""ms-swift's engine class in, one whose requests carry their own seeds out. Contract ids: BRIDGE-009, BRIDGE-012.

Raw log-probabilities, and answers that end at one token id and nowhere else: a rollout server's worker and a learner
that holds its engine itself build the same class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

STEP_TOKENS = 2048
"""Tokens of a step on a CPU, as vLLM's own default has it."""
EXTRA = "coordexp"
"""Key under which a request and an answer hold what is ours."""


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """The token that ends an answer, which log-probabilities go with it (vLLM's `logprobs_mode`), and what else vLLM's
    engine is told.
    """

    stop_token: str
    logprobs_mode: str
    engine_kwargs: Mapping[str, Any] = field(default_factory=dict)


def seeded_engine(base: type, rules: AnswerRules, describe: Callable[[Any], dict[str, Any]]) -> type:
    """ms-swift's engine `base` whose requests carry their own seeds; `describe` says what an engine runs."""

    class SeededEngine(base):  # type: ignore[misc, valid-type]
        """`infer` takes mappings that may hold `coordexp: {seed}`."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._seeds: list[int | None] = []
            self._described: dict[str, Any] | None = None
            more = {**(kwargs.pop("engine_kwargs", None) or {}), **rules.engine_kwargs}
            if not torch.cuda.is_available():
                more = {**whole_prompts(kwargs.get("max_model_len")), **more}
            super().__init__(*args, **{**kwargs, "logprobs_mode": rules.logprobs_mode, "engine_kwargs": more})
            self._stop_id = int(self.tokenizer.convert_tokens_to_ids(rules.stop_token))

        def infer(self, infer_requests: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
            # Reversed, for _add_request takes them from the end, in the requests' order.
            self._seeds = [_seed_of(request) for request in reversed(infer_requests)]
            return super().infer([_without_extra(request) for request in infer_requests], *args, **kwargs)

        def _add_request(self, inputs: Any, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
            # A greedy answer is drawn by none; upstream would add the request's index to one of them all.
            generation_config.seed = self._seeds.pop() if generation_config.temperature else None
            # Text that spells a stop word is text, and another end token is a token like others.
            generation_config.stop = []
            generation_config.stop_token_ids = [self._stop_id]
            generation_config.ignore_eos = True
            return super()._add_request(inputs, generation_config, *args, **kwargs)

        def coordexp_describe(self) -> dict[str, Any]:
            """What this engine runs. Nothing of it changes in its life, and a server's is asked twice in each push."""
            if self._described is None:
                self._described = describe(self)
            return self._described

    return SeededEngine


def whole_prompts(max_model_len: int | None) -> dict[str, Any]:
    """What keeps an engine on a CPU from filling a prompt in parts. For each part of a seeded request vLLM winds its
    generator back, which a CPU's cannot be: a batch whose prompts have more tokens than a step takes ended the engine.
    """
    room = STEP_TOKENS if max_model_len is None else max(STEP_TOKENS, max_model_len)
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": room}


def extra_of(request: Any) -> Mapping[str, Any]:
    """What a request holds that is ours; empty where there is none."""
    return request[EXTRA] if isinstance(request, dict) and EXTRA in request else {}


def _seed_of(request: Any) -> int | None:
    extra = extra_of(request)
    return int(extra["seed"]) if "seed" in extra else None


def _without_extra(request: Any) -> Any:
    return {key: value for key, value in request.items() if key != EXTRA} if isinstance(request, dict) else request
