"""Sampled answers beside the greedy ones: how many, how they are drawn, and by which seeds. Contract ids: EVAL-020,
EVAL-021.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coordexp.evaluation.report import EvaluationError
from coordexp.rollout.seeding import evaluation_seed_base
from coordexp.rollout.types import Decoding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.rollout.types import RolloutRequest

_ADVICE = "above 0, for example 0.7"


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """`count` sampled answers for every image, drawn by `decoding`.

    Raises `EvaluationError` for fewer than one, and for several that would all be the greedy answer.
    """

    count: int
    decoding: Decoding

    def __post_init__(self) -> None:
        _check(self.count, self.decoding.temperature)

    def seeded(self, training_seed: int) -> SampleSettings:
        """The same, drawn from the evaluation's own stream of `training_seed`."""
        return replace(self, decoding=replace(self.decoding, seed_base=evaluation_seed_base(training_seed)))


def read_samples(
    count: int | None, temperature: float | None, top_p: float | None, top_k: int | None, max_new_tokens: int
) -> SampleSettings | None:
    """What a command line asks for; None without `count`.

    Raises `EvaluationError` where the others are given without it, or it without a temperature.
    """
    given = {"--temperature": temperature, "--top-p": top_p, "--top-k": top_k}
    if count is None:
        lone = [name for name, value in given.items() if value is not None]
        if lone:
            raise EvaluationError(
                f"{lone[0]} is about sampled answers, and none are asked for: give --samples K too, or leave {lone[0]} "
                "out (the answers of the report are greedy)"
            )
        return None
    _check(count, temperature)
    if temperature is None:
        raise EvaluationError(f"--samples needs --temperature T, {_ADVICE}")
    decoding = Decoding(max_new_tokens, temperature, 1.0 if top_p is None else top_p, -1 if top_k is None else top_k)
    return SampleSettings(count, decoding)


def _check(count: int, temperature: float | None) -> None:
    if count < 1:
        raise EvaluationError(
            f"samples is {count}; it must be at least 1. Leave it out to evaluate the greedy answers alone"
        )
    if count > 1 and temperature is not None and not temperature > 0:
        raise EvaluationError(
            f"temperature is {temperature:g} with {count} samples; it must be {_ADVICE}: at 0 all would be the greedy "
            "answer. Or ask for one sample"
        )


def build_sample_requests(requests: Sequence[RolloutRequest], count: int) -> list[RolloutRequest]:
    """`requests` over and over, `count` times, each with its place in the whole as its index.

    The first sample of all images comes first, so that asking for more samples leaves those before as they were.
    """
    return [replace(request, index=index) for index, request in enumerate([*requests] * count)]
