"""What a collated row of samples is. Contract ids: PACK-*."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from coordexp.encode.types import ObjectSlots


@dataclass(frozen=True, slots=True)
class Segment:
    """One sample's place: tokens `start:end` of row `row`, of which the first `prompt_length` are prompt."""

    sample_id: str
    row: int
    start: int
    end: int
    prompt_length: int


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Samples laid side by side in one row (packed: B = 1, no attention mask) or padded to B rows.

    `input_ids`, `labels`, `token_types`, `subsets`, `mm_token_type_ids`: int64 [B, T]; `position_ids`: int64 [4, B,
    T], rows text, t, h, w; `attention_mask`: int64 [B, T] when padded, else None. `pixel_values` [P, D] and
    `image_grid_thw` [N, 3] follow the order of the segments. `objects` hold absolute positions within their row.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    token_types: torch.Tensor
    subsets: torch.Tensor
    mm_token_type_ids: torch.Tensor
    position_ids: torch.Tensor
    segments: tuple[Segment, ...]
    objects: tuple[ObjectSlots, ...]
    attention_mask: torch.Tensor | None = None
    pixel_values: torch.Tensor | None = None
    image_grid_thw: torch.Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        """The same batch with its tensors on `device`."""
        moved = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), torch.Tensor)
        }
        return dataclasses.replace(self, **moved)

    def model_inputs(self) -> dict[str, torch.Tensor]:
        """Exactly what may reach `model(...)`: no labels, types, or other batch extras (contract-facts section 7)."""
        inputs = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "mm_token_type_ids": self.mm_token_type_ids,
        }
        optional = {
            "attention_mask": self.attention_mask,
            "pixel_values": self.pixel_values,
            "image_grid_thw": self.image_grid_thw,
        }
        return inputs | {name: value for name, value in optional.items() if value is not None}
