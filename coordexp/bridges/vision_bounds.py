"""Give the attention of Qwen3-VL's vision tower the bounds of all images at once. Contract ids: BRIDGE-006.

transformers calls attention once an image, except under a name that contains `flash`: then one call takes all images
with their bounds. Such a name makes it look for the flash-attn package, so the two functions that the vision tower asks
answer for the project's own name too, in that one module.
"""

from __future__ import annotations

from functools import wraps
from importlib.metadata import version
from typing import Any

import torch
from transformers.models.qwen3_vl import modeling_qwen3_vl
from transformers.utils.generic import is_flash_attention_requested
from transformers.vision_utils import get_vision_attention_seqlens

SEGMENTS = "segments"
"""Name of the project's own attention (`coordexp.forward.segments`), as in `model.attn_impl`."""
PROVEN_VERSIONS = ("5.19.",)


@wraps(is_flash_attention_requested)
def bounds_requested(config: Any, **options: Any) -> bool:
    """Whether attention takes bounds: upstream's own answer, and yes for `segments`."""
    return config._attn_implementation == SEGMENTS or is_flash_attention_requested(config, **options)


@wraps(get_vision_attention_seqlens)
def image_bounds(grid_thw: torch.Tensor, config: Any, **options: Any) -> tuple[torch.Tensor, int | None]:
    """Upstream's int32 [N + 1] bounds of N images and, for `segments` too, the patches of the largest.

    Once a forward; without the second every layer would read it from the device.
    """
    bounds, longest = get_vision_attention_seqlens(grid_thw, config, **options)
    if longest is None and config._attn_implementation == SEGMENTS:
        longest = int(bounds.diff().max())
    return bounds, longest


def install_image_bounds(transformers_version: str | None = None) -> bool:
    """Put both functions in place, once; False under a transformers (the installed one) that they are not proven for.

    There every image is a call of its own: as right, and slower on a GPU.
    """
    if not (transformers_version or version("transformers")).startswith(PROVEN_VERSIONS):
        return False
    modeling_qwen3_vl.is_flash_attention_requested = bounds_requested
    modeling_qwen3_vl.get_vision_attention_seqlens = image_bounds
    return True
