"""A module wrapped by DDP or PEFT in, the transformers model inside it out. Contract ids: FWD-001."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def unwrap_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside DDP and PEFT wrappers, in any nesting. Raises TypeError when there is none."""
    outermost = model
    while not isinstance(model, PreTrainedModel):
        if callable(getattr(model, "get_base_model", None)):  # PEFT
            model = model.get_base_model()
        elif isinstance(getattr(model, "module", None), nn.Module):  # DDP
            model = model.module
        else:
            raise TypeError(
                f"{type(outermost).__name__} is no transformers model and holds none where DDP and PEFT keep it"
            )
    return model
