"""The rollout backend over live servers: answers in order, weights pushed when they are newer. ROLL-022, ROLL-027.

Every rank has one; rank 0's also pushes. `sync` is a collective, `generate` is not.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from coordexp.rollout.observed import ENGINE_KEYS, EngineObserver
from coordexp.rollout.types import BackendSettings, Decoding, Observed, Progress, RolloutOutput, RolloutRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.rollout.scoring import TeacherScorer
    from coordexp.rollout.vllm_client import VllmServerClient
    from coordexp.rollout.weight_sync import WeightSync

OBSERVED = (*ENGINE_KEYS, "rollout/server_retries_total")
"""Metric keys that only servers give."""
_NEVER = -1
"""Version of weights that were not pushed by this learner."""


class VllmServerBackend:
    """Answers from the servers of `client`; `scorer` compares some of them with the learner's own scores."""

    def __init__(self, client: VllmServerClient, weights: WeightSync, scorer: TeacherScorer, dtype: str) -> None:
        self.client, self.weights = client, weights
        self._dtype = dtype
        self._policy_version = _NEVER
        self._observer = EngineObserver(scorer)

    @property
    def settings(self) -> BackendSettings:
        """The servers' data type, and what this rank has under way at once."""
        guarded = self.client.servers[0].guarded
        return BackendSettings("vllm", self._dtype, self.client.batch_size, logprobs=True, repeat_terminate=guarded)

    @property
    def policy_version(self) -> int:
        """Version of the weights that the servers were last proven to run; -1 before the first push."""
        return self._policy_version

    def sync(self, policy_version: int) -> None:
        """Push the learner's weights, unless the servers have them. A collective; raises the same on every rank."""
        if policy_version == self._policy_version:
            return
        started = time.perf_counter()
        report = self.weights.run()
        self.client.weight_loads.update(report.weight_loads)
        self._policy_version = policy_version
        self._observer.note_sync(report.gap, time.perf_counter() - started)

    def generate(
        self, requests: Sequence[RolloutRequest], decoding: Decoding, progress: Progress | None = None
    ) -> list[RolloutOutput]:
        """One output a request, in order; see `VllmServerClient.generate` for what it raises."""
        outputs = self.client.generate(requests, decoding, self._policy_version, progress)
        if outputs:
            self._observer.note_answer(requests[0], outputs[0])
        return outputs

    def take_observed(self) -> Observed:
        """Pushes, the canary, retries, and how far the servers' log-probabilities are from the learner's."""
        self._observer.add("rollout/server_retries_total", float(self.client.retries))
        self.client.retries = 0
        watched = {} if self.client.watch is None else self.client.watch.take_observed()
        return {**self._observer.take(), **watched}
