"""What a rollout backend is asked and what it answers. Contract ids: ROLL-001..ROLL-010.

Token ids enter and leave as plain tuples, so that a request can cross a process or a wire unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from coordexp.data.pictures import PictureError, read_picture

if TYPE_CHECKING:
    from pathlib import Path

    from coordexp.data.pictures import Picture

FinishReason = Literal["stop", "length"]
Progress = Callable[[int, int], None]
"""Called with (answers finished, answers asked for) while a backend works."""

Observed = Mapping[str, tuple[float, float]]
"""Sums of metrics by key, as `coordexp.metrics.accumulator.State` has them."""


class RolloutError(ValueError):
    """A request that a backend cannot answer as asked; the message says which sample and what to change."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the answers of one call are drawn, and how long they may get.

    `temperature` 0 is greedy decoding, in which `top_p`, `top_k` (-1: all tokens) and `seed_base` have no part.
    Request i draws by `seeding.request_seed(seed_base, i)`. With `grammar`, a regular expression, tokens that leave it
    cannot be chosen, and an answer ends only where it matches whole (`coordexp.rollout.grammar`); None leaves all free.
    Raises `RolloutError` for a value out of range.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = -1
    repetition_penalty: float = 1.0
    seed_base: int = 0
    grammar: str | None = None

    def __post_init__(self) -> None:
        allowed = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < math.inf, "at least 0 (0 is greedy) and finite"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k == -1 or self.top_k >= 1, "-1 for all tokens, or at least 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0 (1 is none)"),
            "seed_base": (self.seed_base >= 0, "at least 0"),
            "grammar": (self.grammar != "", "a regular expression, or None for free answers"),
        }
        for name, (fine, wanted) in allowed.items():
            if not fine:
                raise RolloutError(f"{name} is {getattr(self, name)}; it must be {wanted}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken each time."""
        return self.temperature == 0


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """One prompt. `prompt_token_ids` already hold one image placeholder per merged vision patch, in image order.

    `image_sizes` are the width and height that the record declares for each of `image_paths`.
    `index` is its place among all requests of a step, over ranks and chunks; it decides the request's seed.
    """

    sample_id: str
    prompt_token_ids: tuple[int, ...]
    image_paths: tuple[Path, ...] = ()
    index: int = 0
    image_sizes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if len(self.image_sizes) != len(self.image_paths):
            raise ValueError(f"{self.sample_id}: {len(self.image_paths)} images and {len(self.image_sizes)} sizes")

    def read_images(self) -> list[Picture]:
        """Its images as training reads them. Raises `RolloutError`."""
        try:
            return [read_picture(*image) for image in zip(self.image_paths, self.image_sizes, strict=True)]
        except PictureError as error:
            raise RolloutError(f"sample {self.sample_id}: {error}") from error


@dataclass(frozen=True, slots=True)
class RolloutOutput:
    """One answer, as the model wrote it.

    `response_token_ids` end with the stop token iff `finish_reason` is `stop`; `text` is their decoding without it.
    `policy_version` is that of the weights which wrote it. `token_logprobs` (natural log, of the model's own
    distribution, one per response token) is there only when the backend was asked for it. `repeat_terminated` says that
    a repetition guard ended the answer.
    """

    sample_id: str
    prompt_token_ids: tuple[int, ...]
    response_token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    policy_version: int
    repeat_terminated: bool = False
    token_logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """What a backend decodes with, which a report states: below float32 an answer may depend on `dtype` and on
    `decode_batch_size`. `logprobs` says that outputs carry the log-probabilities of their tokens, `repeat_terminate`
    that answers which repeat themselves are ended.
    """

    name: str
    dtype: str
    decode_batch_size: int
    logprobs: bool = False
    repeat_terminate: bool = False


class RolloutBackend(Protocol):
    """Answers requests in the order they were given, whatever order it works in."""

    @property
    def settings(self) -> BackendSettings:
        """What its answers are decoded with, as long as the model stays as it is."""
        ...

    @property
    def policy_version(self) -> int:
        """Version of the weights that the next answers are written with; 0 are those a run starts from."""
        ...

    def sync(self, policy_version: int) -> None:
        """Bring the backend to the learner's weights of this version; called at a step's boundary, by every rank."""
        ...

    def take_observed(self) -> Observed:
        """What it has measured since it was last asked, for the log."""
        ...

    def generate(
        self, requests: Sequence[RolloutRequest], decoding: Decoding, progress: Progress | None = None
    ) -> list[RolloutOutput]:
        """One output per request, `outputs[i]` for `requests[i]`; raises `RolloutError` before any work when one is
        unfit.
        """
        ...
