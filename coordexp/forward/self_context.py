"""What a forward says at the coord slots in, the input embeddings of the next forward out. FWD-018..FWD-020.

Channel A reads its own coordinates: the coord token at position p is replaced by what the logits at p − 1 of the
previous forward say of it. No token is sampled, and every other row stays what the embedding module returns, bit for
bit: the model finds image placeholders by their embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import nn

GradMode = Literal["unroll", "em_detach"]
Mix = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Coord logits [C, 1000] and the embeddings [1000, H] of all coord tokens → what C slots are fed [C, H]."""


@dataclass(frozen=True, slots=True)
class SelfContext:
    """How Channel A runs: `iterations` forwards, of which all but the first read the coordinates of the one before.

    Under `unroll` gradients pass through all of them; under `em_detach` what is fed is detached: forward 0 and the last
    learn, each by itself, those between run without gradient.
    """

    iterations: int = 2
    grad_mode: GradMode = "unroll"

    def learns(self, number: int) -> bool:
        """Whether forward `number`, from 0, keeps its graph."""
        return self.grad_mode == "unroll" or number in (0, self.iterations - 1)


@dataclass(frozen=True, eq=False)
class SlotFeed:
    """Embeds a batch with its coord slots fed from logits.

    `embedding` is the model's module with its hooks, never its weight: coord offsets are part of what a token embeds
    to. `coord_ids` int64 [1000]; `slots` int64 [C], flat positions of the coord tokens.
    """

    embedding: nn.Module
    coord_ids: torch.Tensor
    slots: torch.Tensor
    mix: Mix
    settings: SelfContext

    def __call__(self, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, T, H] of `input_ids` [B, T], the rows at `slots` replaced as `logits` [C, 1000] say."""
        embeddings: torch.Tensor = self.embedding(input_ids)
        with torch.autocast(logits.device.type, enabled=False):
            rows = self.mix(logits, self.embedding(self.coord_ids))
        if self.settings.grad_mode == "em_detach":
            rows = rows.detach()
        return embeddings.flatten(0, 1).index_copy(0, self.slots, rows).view_as(embeddings)
