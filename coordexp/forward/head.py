"""The output head of a model as data: hidden states of the supervised positions in, logits out. Contract ids: FWD-004.

It reads the weights where they are, so tied, untied, PEFT- and DDP-wrapped models are scored alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from coordexp.forward.coord_offset import coord_offset_of, offset_rows
from coordexp.forward.unwrap import unwrap_model

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, eq=False)
class OutputHead:
    """`weight` [V, H], tied to the embedding or its own; `coord_ids` int64 [1000]; `coord_offset` [1000, H] on them.

    Gradients reach `weight` and `coord_offset`.
    """

    weight: torch.Tensor
    coord_ids: torch.Tensor
    coord_offset: torch.Tensor | None = None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., H] → [..., V] in the weight's dtype, equal to what the model's own head gives for these states."""
        hidden = hidden.to(self.weight.dtype)
        logits = F.linear(hidden, self.weight)
        if self.coord_offset is None:
            return logits
        return logits.index_copy_(-1, self.coord_ids, F.linear(hidden, self.coord_rows()))

    def coord_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., H] → [..., 1000], the columns of `logits` at `coord_ids`, without the rest of the vocabulary."""
        return F.linear(hidden.to(self.weight.dtype), self.coord_rows())

    def coord_rows(self) -> torch.Tensor:
        """[1000, H]: the rows that coord tokens are scored with."""
        rows = self.weight[self.coord_ids]
        return rows if self.coord_offset is None else offset_rows(rows, self.coord_offset)


def output_head(model: nn.Module, coord_ids: Sequence[int] | torch.Tensor) -> OutputHead:
    """The head of `model`, however wrapped, with the coord-offset adapter's rows where one is installed.

    Raises TypeError for a head that is not a plain linear layer without bias (an adapter targets it: take `lm_head`
    out of `tuner.target_modules` and use `custom.coord_offset`), ValueError when the adapter was built for other
    coord ids.
    """
    base = unwrap_model(model)
    head = base.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        raise TypeError(
            f"the output head is {type(head).__name__}; only a plain linear layer without bias is scored outside "
            f"the model. Take lm_head out of the adapter's target modules and use custom.coord_offset"
        )
    ids = torch.as_tensor(coord_ids, dtype=torch.long, device=head.weight.device)
    adapter = coord_offset_of(base)
    if adapter is None:
        return OutputHead(head.weight, ids)
    if not torch.equal(adapter.coord_ids.to(ids.device), ids):
        raise ValueError(
            "the coord-offset adapter was built for other coord ids than these; build both from one vocabulary"
        )
    return OutputHead(head.weight, ids, adapter.head_offset)
