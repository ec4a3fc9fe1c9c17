"""Let a Qwen3-VL that ms-swift has loaded run transformers' own forward, under DeepSpeed too. Contract id: BRIDGE-007.

ms-swift puts a forward of its own on the model, for batches of text alone, which would leave the vision tower's
parameters out on some ranks. Under DeepSpeed it takes no images that generate has encoded beforehand, and puts none in
their place, so a model would answer without having seen the image. Every forward of the project holds an image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_REPLACED = "origin_forward"
"""Where ms-swift 4.6 keeps the forward that it has replaced; its mark that it need not do so again."""


def restore_forward(model: nn.Module) -> bool:
    """Take ms-swift's forward off `model` and every module in it; False where there is none (any more)."""
    patched = [part for part in model.modules() if hasattr(part, _REPLACED) and "forward" in vars(part)]
    for part in patched:
        del part.forward
    return bool(patched)
