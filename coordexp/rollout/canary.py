"""One greedy answer of a server in, the proof that it runs the learner's weights out. Contract id: ROLL-021.

Nothing else proves it: an engine that keeps packed copies, a push of base weights, a cache of the old vision tower all
answer 200. So the learner scores the server's own answer to a fixed prompt with an image: each token must be the
likeliest, and as likely as the server says, up to the noise between two implementations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.rollout.types import Decoding
from coordexp.rollout.wire import RolloutServerError

if TYPE_CHECKING:
    from coordexp.rollout.scoring import TeacherScorer, TokenScores
    from coordexp.rollout.types import RolloutOutput, RolloutRequest

TOKENS = 32
"""Answers of the canary end here at the latest."""


@dataclass(frozen=True, slots=True)
class Noise:
    """How far two right implementations may differ in a token's log-probability (nats).

    The bound is `factor` times what is measured at the start, at least `floor`; above `ceiling` they do differ.
    """

    floor: float
    ceiling: float
    factor: float = 4.0


NOISE = {"float32": Noise(2e-4, 1e-2), "bfloat16": Noise(0.05, 0.5), "float16": Noise(0.02, 0.25)}
"""By the coarser type of the two sides."""
PUSHED_ELSEWHERE = (
    "The push did not arrive whole: the server must be one that coordexp.rollout.serve has started, with this "
    "configuration, and no other learner may push to it"
)
"""What to do about a server that fails."""


class Canary:
    """Compares a server's answer to `request` with the learner's scores of it; remembers the bound that it measures."""

    def __init__(
        self, request: RolloutRequest, scorer: TeacherScorer, noise: Noise, advice: str = PUSHED_ELSEWHERE
    ) -> None:
        self.request, self.decoding = request, Decoding(TOKENS)
        self._scorer, self._noise, self._advice = scorer, noise, advice
        self.bound: float | None = None

    def check(self, server: str, output: RolloutOutput) -> float:
        """The largest difference between the two sides' log-probabilities of the answer's tokens.

        Raises `RolloutServerError` where it exceeds the bound, or where another token would be the learner's.
        """
        scores = self._scorer.score(self.request, output.response_token_ids)
        assert output.token_logprobs is not None, "the client asks for them and refuses an answer without"
        gaps = [abs(ours - theirs) for ours, theirs in zip(scores.logprobs, output.token_logprobs, strict=True)]
        gap, bound = max(gaps), self._noise.ceiling if self.bound is None else self.bound
        # The stop token that repeat_terminate forces is nobody's likeliest.
        own = len(gaps) - output.repeat_terminated
        at = next(
            (
                i
                for i in range(len(gaps))
                if not gaps[i] <= bound or (i < own and self._is_other(scores, output, i, bound))
            ),
            None,
        )
        if at is not None:
            raise RolloutServerError(f"{_complaint(server, output, scores, at, bound)}. {self._advice}")
        if self.bound is None:
            self.bound = min(max(self._noise.floor, self._noise.factor * gap), self._noise.ceiling)
        return gap

    def _is_other(self, scores: TokenScores, output: RolloutOutput, at: int, bound: float) -> bool:
        """Whether the learner would write another token than the server: a tie within the bound is none."""
        same = scores.likeliest[at] == output.response_token_ids[at]
        return not same and scores.best[at] - scores.logprobs[at] > bound


def _complaint(server: str, output: RolloutOutput, scores: TokenScores, at: int, bound: float) -> str:
    theirs = output.token_logprobs
    assert theirs is not None
    return (
        f"{server} does not run the learner's weights: in its greedy answer to the canary ({output.sample_id}), token "
        f"{at} is {output.response_token_ids[at]} with log-probability {theirs[at]:.5f}; the learner gives it "
        f"{scores.logprobs[at]:.5f} and would write {scores.likeliest[at]} ({scores.best[at]:.5f}); allowed is a "
        f"difference of {bound:.5f}"
    )
