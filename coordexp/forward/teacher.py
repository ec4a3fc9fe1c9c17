"""One teacher-forced forward: a collated batch and a computation in, its tensors out. FWD-001..FWD-003, FWD-009.

The call goes through the outermost module, so DDP's and DeepSpeed's hooks, PEFT's adapters, autocast and gradient
checkpointing all take part; the computation runs inside it, in the head's place, where a [T, V] tensor of logits never
exists. Nothing but `PackedBatch.model_inputs()` reaches the model (REG-4.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.forward.head import OutputHead, VocabularyHead, plain_head
from coordexp.forward.unwrap import unwrap_model

if TYPE_CHECKING:
    import torch
    from torch import nn

    from coordexp.forward.head import Computation
    from coordexp.packing.types import PackedBatch


def teacher_forward(
    model: nn.Module,
    batch: PackedBatch,
    head: OutputHead,
    computation: Computation,
    inputs_embeds: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """What `computation` makes of the last hidden states [B, T, H] of `batch` and of `head`, with gradient (REG-4.4).

    `inputs_embeds` [B, T, H] reach the model in the place of the batch's ids. Positions are always given, so what an
    earlier generation has left in the model (`rope_deltas`) is not read.

    `model` may be plain, or wrapped by PEFT, DDP or DeepSpeed in any nesting. Raises ValueError for position ids
    without four rows, TypeError for a model whose head `install_vocabulary_head` has not replaced.
    """
    check_four_rows(batch)
    host = plain_head(model)
    if not isinstance(host, VocabularyHead):
        raise TypeError("the model still has its own output head; call install_vocabulary_head once it is built")
    with host.computing(computation, head):
        outputs = model(**batch.model_inputs(inputs_embeds), use_cache=False)
    computed: tuple[torch.Tensor, ...] = outputs.logits
    return computed


def hidden_states(model: nn.Module, batch: PackedBatch) -> torch.Tensor:
    """Last hidden states [B, T, H] of `batch`, from inside all wrappers: for probes, not for training."""
    check_four_rows(batch)
    hidden: torch.Tensor = unwrap_model(model).model(**batch.model_inputs(), use_cache=False).last_hidden_state
    return hidden


def check_four_rows(batch: PackedBatch) -> PackedBatch:
    """Return the batch when its positions are [4, B, T]; with three rows transformers sees no boundaries, silently."""
    expected = (4, *batch.input_ids.shape)
    if tuple(batch.position_ids.shape) != expected:
        raise ValueError(
            f"position_ids have shape {tuple(batch.position_ids.shape)}; the rows text, t, h, w are {expected}. "
            f"With fewer rows packed samples attend to each other"
        )
    return batch
