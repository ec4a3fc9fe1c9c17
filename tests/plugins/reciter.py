"""A backend that says what it was told to: for evaluations of given answers through the real encoder and parser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from coordexp.encode.encoder import Encoder
from coordexp.rollout.types import BackendSettings, Decoding, Progress, RolloutOutput, RolloutRequest

RECITER = BackendSettings("reciter", "float32", 7)


@dataclass
class Reciter:
    """Answers each sample with what it was given to say, and notes what it was asked."""

    encoder: Encoder
    answers: dict[str, str]
    settings: BackendSettings = RECITER
    policy_version: int = 0
    asked: list[tuple[list[int], Decoding]] = field(default_factory=list)

    def sync(self, policy_version: int) -> None:
        """Note the version."""
        self.policy_version = policy_version

    def take_observed(self) -> dict[str, tuple[float, float]]:
        return {}

    def generate(
        self, requests: Sequence[RolloutRequest], decoding: Decoding, progress: Progress | None = None
    ) -> list[RolloutOutput]:
        """The answers, in request order."""
        self.asked.append(([request.index for request in requests], decoding))
        if progress is not None:
            progress(len(requests), len(requests))
        made = []
        for request in requests:
            text = self.answers[request.sample_id]
            ids = tuple(self.encoder.tokenizer(text, add_special_tokens=False)["input_ids"])
            made.append(RolloutOutput(request.sample_id, request.prompt_token_ids, ids, text, "stop", 0))
        return made
