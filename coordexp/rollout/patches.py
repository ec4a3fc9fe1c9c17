"""Image files of a batch in, vision patches out, exactly as training sees them. Contract ids: ROLL-004."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from coordexp.encode.pixels import make_patches
from coordexp.rollout.types import RolloutError, RolloutRequest

if TYPE_CHECKING:
    from collections.abc import Sequence


def read_patches(requests: Sequence[RolloutRequest], image_processor: Any, image_id: int) -> dict[str, torch.Tensor]:
    """`pixel_values` float [P, D] and `image_grid_thw` int64 [N, 3] in request order; empty without images.

    Nothing is resized. Raises `RolloutError` for an image that is not read, and when a prompt's image placeholders are
    not as many as its images' merged patches.
    """
    pixels, grids = [], []
    merge = int(image_processor.merge_size) ** 2
    for request in requests:
        wanted, offered = request.prompt_token_ids.count(image_id), 0
        for picture in request.read_images():
            patches, grid = make_patches([picture.image], image_processor)
            pixels.append(patches)
            grids.append(grid)
            offered += int(grid.prod()) // merge
        if wanted != offered:
            raise RolloutError(
                f"sample {request.sample_id}: the prompt holds {wanted} image placeholders but its "
                f"{len(request.image_paths)} image(s) give {offered}; encode the prompt from the same image files"
            )
    if not pixels:
        return {}
    return {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.cat(grids)}
