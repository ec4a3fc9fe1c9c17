"""What a rollout backend is asked and what it answers. Contract ids: ROLL-001..ROLL-004.

Token ids enter and leave as plain tuples, so that a request can cross a process or a wire unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from pathlib import Path

FinishReason = Literal["stop", "length"]
Progress = Callable[[int, int], None]
"""Called with (answers finished, answers asked for) while a backend works."""


class RolloutError(ValueError):
    """A request that a backend cannot answer as asked; the message says which sample and what to change."""


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """One prompt. `prompt_token_ids` already hold one image placeholder per merged vision patch, in image order."""

    sample_id: str
    prompt_token_ids: tuple[int, ...]
    image_paths: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class RolloutOutput:
    """One answer, as the model wrote it.

    `response_token_ids` end with the stop token iff `finish_reason` is `stop`; `text` is their decoding without it.
    `token_logprobs` (natural log, one per response token) is there only when the backend was asked for it.
    `repeat_terminated` says that a repetition guard ended the answer.
    """

    sample_id: str
    prompt_token_ids: tuple[int, ...]
    response_token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    repeat_terminated: bool = False
    token_logprobs: tuple[float, ...] | None = None


class RolloutBackend(Protocol):
    """Answers requests in the order they were given, whatever order it works in."""

    def generate(self, requests: Sequence[RolloutRequest], progress: Progress | None = None) -> list[RolloutOutput]:
        """One output per request, `outputs[i]` for `requests[i]`; raises `RolloutError` before any work when one is
        unfit.
        """
        ...
