"""Scores of a batch in, each row's next token out, by its request's own generator. Contract ids: ROLL-006..ROLL-009.

Sampling is the argmax of the warped scores plus Gumbel noise (Gumbel-max), so an answer is a function of prompt,
weights and seed: what else is in the batch has no part in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessor, LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from coordexp.rollout.seeding import request_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coordexp.rollout.grammar import GrammarRows
    from coordexp.rollout.server_plugin.repeats import RepeatGuard
    from coordexp.rollout.types import Decoding, RolloutRequest


class TokenChooser(LogitsProcessor):
    """Leaves each row's chosen token alone with a finite score, for generate's own argmax to take.

    Keeps the log-probability that the model itself gives each chosen token: one float a row and step, so a vocabulary
    of 150,000 costs no more than one of 1,000. `on_step` is told the batch's ids so far. `grammar` masks the scores
    that are ranked. `guard` ends answers that repeat themselves: it overrides the choice, and the mask follows what was
    written.
    """

    def __init__(
        self,
        requests: Sequence[RolloutRequest],
        decoding: Decoding,
        device: torch.device,
        on_step: Callable[[torch.Tensor], None] | None = None,
        guard: RepeatGuard | None = None,
        grammar: GrammarRows | None = None,
    ) -> None:
        self.logprobs: list[torch.Tensor] = []
        self._guarded = None if guard is None else _Guarded(guard, len(requests))
        self._decoding = decoding
        self._on_step, self._grammar = on_step, grammar
        self._penalty = _RepetitionPenalty(requests, decoding.repetition_penalty)
        self._generators = [
            torch.Generator(device).manual_seed(request_seed(decoding.seed_base, request.index)) for request in requests
        ]
        self._warpers = LogitsProcessorList()
        if decoding.top_k != -1:
            self._warpers.append(TopKLogitsWarper(decoding.top_k))
        if decoding.top_p < 1:
            self._warpers.append(TopPLogitsWarper(decoding.top_p))

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """`input_ids` int64 [B, T so far], `scores` float [B, V] → float [B, V], -inf but for the chosen token."""
        if self._on_step is not None:
            self._on_step(input_ids)
        wide = scores.float()
        ranked = self._penalty(input_ids, wide)
        if self._grammar is not None:
            ranked = self._grammar.mask(input_ids, ranked)
        if not self._decoding.greedy:
            ranked = self._warpers(input_ids, ranked / self._decoding.temperature) + self._noise(wide)
        chosen = ranked.argmax(dim=-1, keepdim=True)
        if self._guarded is not None:
            chosen = self._guarded(input_ids, chosen)
        self.logprobs.append(wide.gather(1, chosen).squeeze(1) - wide.logsumexp(dim=-1))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)  # type: ignore[return-value]

    def _noise(self, scores: torch.Tensor) -> torch.Tensor:
        """Gumbel noise [B, V], one row from each request's generator."""
        rows = [torch.empty_like(scores[0]).exponential_(generator=generator) for generator in self._generators]
        return -torch.stack(rows).log()


class _Guarded:
    """Takes the stop token in rows whose answers repeat themselves; the other rows keep what was chosen."""

    def __init__(self, guard: RepeatGuard, rows: int) -> None:
        self._stop_id, self._answers = guard.stop_id, [guard.watch() for _ in range(rows)]
        self._begun = False

    def __call__(self, input_ids: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """`input_ids` int64 [B, T so far], `chosen` int64 [B, 1] → int64 [B, 1]."""
        if self._begun:
            for answer, token in zip(self._answers, input_ids[:, -1].tolist(), strict=True):
                answer.push(token)
        self._begun = True
        ended = torch.tensor([[answer.triggered] for answer in self._answers], device=chosen.device)
        return torch.where(ended, self._stop_id, chosen)


class _RepetitionPenalty:
    """Divides positive and multiplies negative scores of tokens that a row's prompt or answer holds.

    Padding is no part of a prompt, so a row is scored alike in any batch.
    """

    def __init__(self, requests: Sequence[RolloutRequest], penalty: float) -> None:
        self._prompts = [list(request.prompt_token_ids) for request in requests]
        self._penalty = penalty
        self._seen: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._penalty == 1:
            return scores
        if self._seen is None:
            self._seen = torch.zeros_like(scores, dtype=torch.bool)
            for row, prompt in enumerate(self._prompts):
                self._seen[row, prompt] = True
        else:
            self._seen.scatter_(1, input_ids[:, -1:], True)
        return torch.where(self._seen, torch.where(scores > 0, scores / self._penalty, scores * self._penalty), scores)
