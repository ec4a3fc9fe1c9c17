"""The coord-offset adapter: learnt offsets on the coord rows of the embedding and the head, everything else frozen.

In: a model and `custom.coord_offset` (ids, tie_head, embed_lr, head_lr). Out: two hooks that add the offsets,
optimizer groups, adapter files. Base rows never change (AUDIT-6.2). Contract ids: FWD-004..FWD-008.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from coordexp.forward.unwrap import unwrap_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

MODULE_NAME = "coord_offset"


class CoordOffset(nn.Module):
    """Offsets [C, H], zero at first, of C coord ids: `embed_offset` and `head_offset`, the same one under `tie_head`.

    Lives on the transformers model as `coord_offset`, so optimizers, DDP and `.to` find it. Its names stay out of a
    merged export.
    """

    coord_ids: torch.Tensor
    slots: torch.Tensor

    def __init__(self, coord_ids: Sequence[int], vocabulary: int, width: int, *, tie_head: bool) -> None:
        super().__init__()
        ids = torch.tensor(list(coord_ids), dtype=torch.long)
        slots = torch.full((vocabulary,), -1, dtype=torch.long)
        slots[ids] = torch.arange(len(ids))
        self.tie_head = tie_head
        self.register_buffer("coord_ids", ids, persistent=False)
        self.register_buffer("slots", slots, persistent=False)  # token id → row of the offsets, -1 for other tokens
        self.embed_offset = nn.Parameter(torch.zeros(len(ids), width))
        self.own_head_offset = None if tie_head else nn.Parameter(torch.zeros(len(ids), width))

    @property
    def head_offset(self) -> nn.Parameter:
        return self.embed_offset if self.own_head_offset is None else self.own_head_offset

    def embedding_hook(
        self, module: nn.Module, args: tuple[torch.Tensor, ...], embeddings: torch.Tensor
    ) -> torch.Tensor:
        """[..., H] with the offsets on coord tokens, other vectors bit for bit. Attached without coord tokens too."""
        slots = self.slots[args[0]]
        moved = offset_rows(embeddings, self.embed_offset[slots.clamp(min=0)])
        return torch.where((slots >= 0)[..., None], moved, embeddings)

    def head_hook(
        self, module: nn.Linear, args: tuple[torch.Tensor, ...], logits: torch.Tensor | tuple[torch.Tensor, ...]
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits [..., V] with the columns of the coord ids scored by the offset rows, in place.

        A computation in the head's place returns a tuple, and has been given the offsets itself.
        """
        if isinstance(logits, tuple):
            return logits
        rows = offset_rows(module.weight[self.coord_ids], self.head_offset)
        return logits.index_copy_(-1, self.coord_ids, F.linear(args[0], rows).to(logits.dtype))


def offset_rows(rows: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Base rows plus offset, added in float32 or better and rounded once: bit for bit what a merged export writes."""
    precision = torch.promote_types(rows.dtype, torch.float32)
    return (rows.to(precision) + offset.to(precision)).to(rows.dtype)


def coord_offset_of(model: nn.Module) -> CoordOffset | None:
    """The adapter installed on `model`, however wrapped, or None."""
    adapter = getattr(unwrap_model(model), MODULE_NAME, None)
    return adapter if isinstance(adapter, CoordOffset) else None


def install_coord_offset(
    model: nn.Module, coord_ids: Sequence[int], *, tie_head: bool, dtype: torch.dtype | None = None
) -> CoordOffset:
    """Freeze the embedding and head of `model` and add zero offsets for `coord_ids`: the outputs do not change yet.

    `dtype` is that of the offsets; None takes the embedding's. Install after PEFT has wrapped the model, because PEFT
    freezes all it does not know. Raises ValueError for a second install, repeated ids, ids outside the vocabulary, or
    an embedding or head that another adapter has replaced.
    """
    base = unwrap_model(model)
    if coord_offset_of(base) is not None:
        raise ValueError("the coord-offset adapter is installed already; install it once per model")
    embedding, head = plain_ends(base)
    vocabulary, width = embedding.weight.shape
    if len(set(coord_ids)) != len(coord_ids) or not all(0 <= index < vocabulary for index in coord_ids):
        raise ValueError(
            f"custom.coord_offset.ids must be distinct and inside 0..{vocabulary - 1}; "
            f"build them with coordexp.coords.vocab.build_coord_vocab"
        )
    adapter = CoordOffset(coord_ids, vocabulary, width, tie_head=tie_head)
    adapter.to(device=embedding.weight.device, dtype=dtype or embedding.weight.dtype)
    for frozen in (embedding, head):
        frozen.weight.requires_grad_(False)
    setattr(base, MODULE_NAME, adapter)
    # Bound methods, so a deep copy of the model hooks its own adapter and not this one.
    embedding.register_forward_hook(adapter.embedding_hook)
    head.register_forward_hook(adapter.head_hook)
    return adapter


def plain_ends(base: PreTrainedModel) -> tuple[nn.Embedding, nn.Linear]:
    """The input embedding and the output head of `base`, or ValueError when an adapter has wrapped one of them."""
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    for found, plain in ((embedding, nn.Embedding), (head, nn.Linear)):
        # What PEFT puts in a layer's place holds the plain one inside and is none itself.
        if not isinstance(found, plain):
            raise ValueError(
                f"coord_offset needs a plain {plain.__name__}, found {type(found).__name__}: take embed_tokens and "
                f"lm_head out of tuner.target_modules and tuner.modules_to_save"
            )
    return embedding, head


def coord_offset_groups(
    model: nn.Module, *, embed_lr: float, head_lr: float, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Optimizer groups of the adapter: `coord_offset_embed`, and `coord_offset_head` where the head has its own offset.

    Under `tie_head` the one offset moves with `embed_lr` and `head_lr` is not read. Raises ValueError for a missing
    adapter, or when something has unfrozen a base weight since: base rows would then move beside their offsets.
    """
    adapter = check_installed(model)
    ends = zip(("embedding", "head"), plain_ends(unwrap_model(model)), strict=True)
    if thawed := [name for name, end in ends if end.weight.requires_grad]:
        raise ValueError(
            f"the base {' and '.join(thawed)} would train beside the coord offsets, which keep base rows as "
            f"they are; leave them frozen (install the adapter after all other freezing rules)"
        )
    groups = [
        {"name": "coord_offset_embed", "params": [adapter.embed_offset], "lr": embed_lr, "weight_decay": weight_decay}
    ]
    if adapter.own_head_offset is not None:
        groups.append(
            {
                "name": "coord_offset_head",
                "params": [adapter.own_head_offset],
                "lr": head_lr,
                "weight_decay": weight_decay,
            }
        )
    return groups


def check_installed(model: nn.Module) -> CoordOffset:
    """The adapter of `model`, or ValueError when there is none."""
    adapter = coord_offset_of(model)
    if adapter is None:
        raise ValueError(
            "the model has no coord-offset adapter; call install_coord_offset first (custom.coord_offset.enabled)"
        )
    return adapter
