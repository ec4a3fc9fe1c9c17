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

    def with_pixels(self, pixel_values: torch.Tensor | None) -> PackedBatch:
        """The same batch with its patches [P, D]; raises ValueError unless they are as many as the grids ask for."""
        wanted = 0 if self.image_grid_thw is None else int(self.image_grid_thw.prod(-1).sum())
        found = 0 if pixel_values is None else pixel_values.shape[0]
        if found != wanted:
            raise ValueError(f"{found} patches for a batch whose image_grid_thw asks for {wanted}")
        return dataclasses.replace(self, pixel_values=pixel_values)

    def pin_memory(self) -> PackedBatch:
        """The same batch in page-locked memory, from which a GPU copies while the CPU goes on."""
        pinned = {
            f.name: value.pin_memory()
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), torch.Tensor) and not value.is_cuda
        }
        return dataclasses.replace(self, **pinned)

    def model_inputs(self, inputs_embeds: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Exactly what may reach `model(...)`: no labels, types, or other batch extras (REG-4.4).

        `inputs_embeds` [B, T, H] stand in the place of `input_ids`; the model takes one of the two.

        Raises ValueError for images whose pixels have not been made.
        """
        if self.image_grid_thw is not None and self.pixel_values is None:
            raise ValueError("the batch has images and no pixels yet: make them and call with_pixels")
        tokens = {"input_ids": self.input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        inputs = tokens | {
            "position_ids": self.position_ids,
            "mm_token_type_ids": self.mm_token_type_ids,
        }
        optional = {
            "attention_mask": self.attention_mask,
            "pixel_values": self.pixel_values,
            "image_grid_thw": self.image_grid_thw,
        }
        return inputs | {name: value for name, value in optional.items() if value is not None}
