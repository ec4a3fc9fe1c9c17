"""ms-swift's multimodal parameter groups, plus the coord offsets' own. Contract ids: TRAIN-005.

`training.optimizer: multimodal` gives the language model, the vision tower and the aligner a learning rate each;
installed coord offsets leave those groups and get `custom.coord_offset`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from swift.optimizers.mapping import optimizers_map
from swift.optimizers.multimodal import MultimodalOptimizerCallback
from torch import nn

from coordexp.config.sections import CoordOffsetConfig
from coordexp.forward.coord_offset import coord_offset_groups, coord_offset_of, install_coord_offset

OPTIMIZER = "multimodal_coord_offset"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": torch.float32}


class CoordOffsetOptimizerCallback(MultimodalOptimizerCallback):  # type: ignore[misc]
    """Upstream's groups without the offsets, and then the offsets' groups."""

    knobs: CoordOffsetConfig

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of upstream's class and settings over both sets of groups."""
        model = self.trainer.model if model is None else model
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        rate = self.args.learning_rate
        own = coord_offset_groups(
            model,
            embed_lr=_given(self.knobs.embed_lr, rate),
            head_lr=_given(self.knobs.head_lr, rate),
            weight_decay=self.knobs.weight_decay,
        )
        offsets = {id(parameter) for group in own for parameter in group["params"]}
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in offsets]
        optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
        for group in own:
            optimizer.add_param_group({key: value for key, value in group.items() if key != "name"})
        return optimizer


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def install_adapter(model: nn.Module, coord_ids: Sequence[int], knobs: CoordOffsetConfig) -> bool:
    """Install the coord-offset adapter when `custom.coord_offset` enables it; says whether it did."""
    if not knobs.enabled:
        return False
    install_coord_offset(model, coord_ids, tie_head=knobs.tie_head, dtype=_DTYPES[knobs.dtype])
    return coord_offset_of(model) is not None


def register_optimizer(knobs: CoordOffsetConfig) -> str:
    """Name under which ms-swift finds the optimizer: its own `multimodal`, or the one with offset groups."""
    if not knobs.enabled:
        return "multimodal"
    chosen: dict[str, Any] = {"knobs": knobs}
    optimizers_map[OPTIMIZER] = type("ChosenCoordOffsetOptimizer", (CoordOffsetOptimizerCallback,), chosen)
    return OPTIMIZER
