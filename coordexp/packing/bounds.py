"""What the tokens of a row may see in, where its segments begin and end out. Contract ids: PACK-016.

transformers derives that rule from the text row of the positions. Bounds are values that travel with one forward's
calls: nothing here is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

Visibility = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""transformers' mask rule: indices of batch, head, query and key in, bool «the query sees the key» out."""


@dataclass(frozen=True, eq=False)
class SegmentBounds:
    """N segments of one row, side by side.

    `starts`: int32 [N + 1] from 0 to T on the row's device; `longest`: tokens of the longest segment.
    """

    starts: torch.Tensor
    longest: int

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each segment, N in all; read from the device the first time."""
        lengths: list[int] = self.starts.diff().tolist()
        return lengths


def find_bounds(sees: Visibility, tokens: int, device: torch.device | str) -> SegmentBounds | None:
    """Bounds of a row of `tokens`, or None when a token sees its successor, which no causal segment allows.

    A segment goes on where a token sees its predecessor, so two diagonals tell what the square of the row would.
    Both are read from the device in one transfer.
    """
    later, earlier = torch.arange(1, tokens, device=device), torch.arange(tokens - 1, device=device)
    row = torch.zeros((), dtype=torch.long, device=device)
    goes_on, ahead = torch.stack([sees(row, row, later, earlier), sees(row, row, earlier, later)]).cpu()
    if ahead.any():
        return None
    inner = torch.nonzero(~goes_on).flatten() + 1
    starts = torch.cat([torch.tensor([0]), inner, torch.tensor([tokens])]).to(torch.int32)
    return SegmentBounds(starts.to(device), int(starts.diff().max()))
