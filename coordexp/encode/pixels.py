"""Images in, the vision patches that the model sees out; nothing is resized. Contract ids: ENC-006, ROLL-004."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from PIL import Image


def make_patches(
    images: Sequence[Image.Image], image_processor: Any, device: torch.device | str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`pixel_values` float32 [P, D] and `image_grid_thw` int64 [N, 3] of RGB images, in their order.

    Computed on `device` (the CPU without one): eight-bit pixels travel there, an eighth of what patches take.
    """
    made = image_processor(images=list(images), do_resize=False, return_tensors="pt", device=device)
    return made["pixel_values"], made["image_grid_thw"]
