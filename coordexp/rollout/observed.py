"""Syncs and answers of an engine in, what they tell of it out: sums of metrics by key. Contract id: ROLL-027.

The same for an engine behind a server and one in the learner's process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordexp.rollout.scoring import TeacherScorer
    from coordexp.rollout.types import Observed, RolloutOutput, RolloutRequest

ENGINE_KEYS = (
    "rollout/logprob_gap_mean",
    "rollout/canary_gap_max",
    "rollout/weight_pushes_total",
    "time/rollout_sync_s",
)
"""Metric keys that only an engine of vLLM gives."""


class EngineObserver:
    """Adds up what is seen of an engine; `scorer` compares some of its answers with the learner's own scores."""

    def __init__(self, scorer: TeacherScorer) -> None:
        self._scorer = scorer
        self._observed: dict[str, tuple[float, float]] = {}

    def note_sync(self, gap: float, seconds: float) -> None:
        """The engine was given newer weights in so many seconds, and its canary's gap is this."""
        self.add("rollout/weight_pushes_total", 1.0)
        self._keep_largest("rollout/canary_gap_max", gap)
        self._keep_largest("time/rollout_sync_s", seconds)

    def note_answer(self, request: RolloutRequest, output: RolloutOutput) -> None:
        """Score one answer of a call, so that it costs one forward whatever the batch."""
        theirs = output.token_logprobs or ()
        ours = self._scorer.score(request, output.response_token_ids).logprobs if theirs else ()
        gap = sum(abs(left - right) for left, right in zip(ours, theirs, strict=True))
        total, tokens = self._observed.get("rollout/logprob_gap_mean", (0.0, 0.0))
        self._observed["rollout/logprob_gap_mean"] = (total + gap, tokens + len(theirs))

    def add(self, key: str, value: float) -> None:
        """Add to a sum."""
        self._observed[key] = (self._observed.get(key, (0.0, 0.0))[0] + value, 0.0)

    def take(self) -> Observed:
        """All since this was last asked."""
        observed, self._observed = self._observed, {}
        return observed

    def _keep_largest(self, key: str, value: float) -> None:
        self._observed[key] = (max(self._observed.get(key, (value, 0.0))[0], value), 0.0)
