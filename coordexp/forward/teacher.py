"""One teacher-forced forward: a collated batch in, hidden states out. Contract ids: FWD-001..FWD-003, FWD-009.

The call goes through the outermost module, so DDP's hooks, PEFT's adapters, autocast and gradient checkpointing all
take part. Only the output head is put aside for its duration: a [T, V] tensor of logits never exists, and what the
model returns as logits are the hidden states. Nothing but `PackedBatch.model_inputs()` reaches the model
(contract-facts section 7).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from coordexp.forward.unwrap import unwrap_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordexp.packing.types import PackedBatch


def teacher_hidden(model: nn.Module, batch: PackedBatch) -> torch.Tensor:
    """Last hidden states [B, T, H] of `batch`, with gradient; `output_head(model, ids)` makes logits of them (REG-4.4).

    `model` may be plain, PEFT-wrapped, DDP-wrapped, or both. Raises ValueError for position ids without four rows,
    and for DDP with `find_unused_parameters`, which would count the head as unused before the objective uses it.
    """
    check_four_rows(batch)
    check_reducer(model)
    with hidden_states_only(model):
        outputs = model(**batch.model_inputs(), use_cache=False)
    hidden: torch.Tensor = outputs.logits
    return hidden


@contextmanager
def hidden_states_only(model: nn.Module) -> Iterator[None]:
    """While open, `model(...)` returns hidden states as its logits; the head is back on exit, after an error too."""
    base = unwrap_model(model)
    head = base.get_output_embeddings()
    base.set_output_embeddings(nn.Identity())
    try:
        yield
    finally:
        base.set_output_embeddings(head)


def check_four_rows(batch: PackedBatch) -> PackedBatch:
    """Return the batch when its positions are [4, B, T]; with three rows transformers sees no boundaries, silently."""
    expected = (4, *batch.input_ids.shape)
    if tuple(batch.position_ids.shape) != expected:
        raise ValueError(
            f"position_ids have shape {tuple(batch.position_ids.shape)}; the rows text, t, h, w are {expected}. "
            f"With fewer rows packed samples attend to each other"
        )
    return batch


def check_reducer(model: nn.Module) -> nn.Module:
    """Return the model unless it is DDP that looks for unused parameters: the objective comes after the forward."""
    if isinstance(model, DistributedDataParallel) and model.find_unused_parameters:
        raise ValueError(
            "DDP with find_unused_parameters would reduce the output head before the objective has used it; "
            "set ddp_find_unused_parameters: false"
        )
    return model
