"""The output head as the place where the vocabulary is scored: hidden states in, what was asked for out. FWD-004.

`VocabularyHead` stands in the head's place with the same parameter under the same name, so hooks of DDP, DeepSpeed and
PEFT see one ordinary linear layer, and checkpoints do not change. While a computation is given to it, its forward runs
that on the hidden states instead of multiplying out logits of all tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from coordexp.forward.coord_offset import coord_offset_of, offset_rows
from coordexp.forward.unwrap import unwrap_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


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


Computation = Callable[[torch.Tensor, OutputHead], tuple[torch.Tensor, ...]]
"""Hidden states [B, T, H] and the head they would be scored with → tensors, attached to both."""


class VocabularyHead(nn.Linear):
    """A linear head without bias that runs a computation in the place of its product while one is given to it."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would allocate a second weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight
        self.register_parameter("bias", None)
        self._computation: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., V]; what the computation returns while one is given."""
        if self._computation is None:
            return super().forward(hidden)
        return self._computation(hidden)  # type: ignore[return-value]

    @contextmanager
    def computing(self, computation: Computation, head: OutputHead) -> Iterator[None]:
        """While open, a forward returns `computation(hidden states, head)`; plain again on exit, after an error too."""
        self._computation = lambda hidden: computation(hidden, head)
        try:
            yield
        finally:
            self._computation = None


def install_vocabulary_head(model: nn.Module) -> VocabularyHead:
    """Put a `VocabularyHead` in the place of the head of `model`, however wrapped; the same one when it is there.

    Install it after PEFT and before the coord offsets, which hook the head. Raises like `output_head`.
    """
    base = unwrap_model(model)
    head = plain_head(model)
    if isinstance(head, VocabularyHead):
        return head
    if coord_offset_of(base) is not None:
        raise ValueError("coord offsets hook the output head: install the vocabulary head before them")
    installed = VocabularyHead(head)
    base.set_output_embeddings(installed)
    return installed


def plain_head(model: nn.Module) -> nn.Linear:
    """The head of `model`, or TypeError for one that is not a plain linear layer without bias."""
    head = unwrap_model(model).get_output_embeddings()
    if type(head) not in (nn.Linear, VocabularyHead) or head.bias is not None:
        raise TypeError(
            f"the output head is {type(head).__name__}; only a plain linear layer without bias can be scored for the "
            f"objective. Take lm_head out of the adapter's target modules and use custom.coord_offset"
        )
    return head


def output_head(model: nn.Module, coord_ids: Sequence[int] | torch.Tensor) -> OutputHead:
    """The head of `model`, however wrapped, as data, with the coord-offset adapter's rows where one is installed.

    Raises TypeError for a head that is not a plain linear layer without bias (an adapter targets it: take `lm_head`
    out of `tuner.target_modules` and use `custom.coord_offset`), ValueError when the adapter was built for other
    coord ids.
    """
    head = plain_head(model)
    ids = torch.as_tensor(coord_ids, dtype=torch.long, device=head.weight.device)
    adapter = coord_offset_of(model)
    if adapter is None:
        return OutputHead(head.weight, ids)
    if not torch.equal(adapter.coord_ids.to(ids.device), ids):
        raise ValueError(
            "the coord-offset adapter was built for other coord ids than these; build both from one vocabulary"
        )
    return OutputHead(head.weight, ids, adapter.head_offset)
