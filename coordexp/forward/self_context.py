"""What a forward says at the coord slots in, the input embeddings of the next forward out. FWD-018..FWD-020.

Channel A reads its own coordinates: the coord token at position p is replaced by what the logits at p − 1 of the
previous forward say of it. No token is sampled, and every other row stays what the embedding module returns, bit for
bit: the model finds image placeholders by their embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import nn

EmbedMode = Literal["soft", "st", "hard"]
GradMode = Literal["unroll", "em_detach"]


@dataclass(frozen=True, slots=True)
class SelfContext:
    """How Channel A runs: `iterations` forwards, of which all but the first read the coordinates of the one before.

    `embed_mode` says what a slot is fed (`slot_rows`). Under `unroll` gradients pass through all forwards; under
    `em_detach` what is fed is detached: forward 0 and the last learn, each by itself, those between run without
    gradient.
    """

    iterations: int = 2
    embed_mode: EmbedMode = "st"
    grad_mode: GradMode = "unroll"

    def learns(self, number: int) -> bool:
        """Whether forward `number`, from 0, keeps its graph."""
        return self.grad_mode == "unroll" or number in (0, self.iterations - 1)


@dataclass(frozen=True, eq=False)
class SlotFeed:
    """Embeds a batch with its coord slots fed from logits.

    `embedding` is the model's module with its hooks, never its weight: coord offsets are part of E_k. `coord_ids` int64
    [1000]; `slots` int64 [C], flat positions of the coord tokens; `temperature` that of the coord distribution.
    """

    embedding: nn.Module
    coord_ids: torch.Tensor
    slots: torch.Tensor
    temperature: float
    settings: SelfContext

    def __call__(self, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, T, H] of `input_ids` [B, T], the rows at `slots` replaced as `logits` [C, 1000] say."""
        embeddings: torch.Tensor = self.embedding(input_ids)
        rows = slot_rows(self.embedding(self.coord_ids), logits, self.temperature, self.settings.embed_mode)
        if self.settings.grad_mode == "em_detach":
            rows = rows.detach()
        return embeddings.flatten(0, 1).index_copy(0, self.slots, rows).view_as(embeddings)


def slot_rows(table: torch.Tensor, logits: torch.Tensor, temperature: float, mode: EmbedMode) -> torch.Tensor:
    """[C, H] in the dtype of `table` [1000, H], for `logits` [C, 1000] with p = softmax(logits / temperature).

    `soft`: Σ p_k E_k. `hard`: the likeliest E_k. `st`: the likeliest E_k, with the gradient of `soft`.
    """
    likeliest = table[logits.argmax(-1)]
    if mode == "hard":
        return likeliest
    with torch.autocast(logits.device.type, enabled=False):
        soft = (torch.softmax(logits / temperature, dim=-1) @ table.to(logits.dtype)).to(table.dtype)
    return soft if mode == "soft" else likeliest.detach() + (soft - soft.detach())
