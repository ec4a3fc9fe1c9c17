"""What one micro-batch carries through the loop, and the collator that makes it in a dataloader worker.

Contract ids: TRAIN-*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from coordexp.encode.types import EncodedSample
from coordexp.losses.context import TeacherForcingContext
from coordexp.losses.masks import Provenance
from coordexp.losses.objective import Objective
from coordexp.packing.collate import collate_packed, collate_padded
from coordexp.packing.positions import RopeFunction
from coordexp.packing.types import PackedBatch

STEP = "step"
"""Key under which a `StepInputs` travels in the mapping that transformers' Trainer hands around."""


@dataclass(frozen=True, eq=False)
class StepInputs:
    """One forward's batch and what it is asked to predict; `n_packs` packs of the plan lie in it."""

    batch: PackedBatch
    context: TeacherForcingContext
    n_packs: int = 1

    def to(self, device: torch.device | str) -> StepInputs:
        """The same inputs with their tensors on `device`."""
        return StepInputs(self.batch.to(device, non_blocking=True), self.context.to(device), self.n_packs)


class StepCollator:
    """Lists of packs in, `{STEP: StepInputs}` out. `pad_id` None lays samples side by side, an id pads them to rows."""

    def __init__(
        self, rope: RopeFunction, objective: Objective, provenance: Provenance, pad_id: int | None = None
    ) -> None:
        self.rope, self.objective, self.provenance, self.pad_id = rope, objective, provenance, pad_id

    def __call__(self, packs: Sequence[Sequence[EncodedSample]]) -> dict[str, StepInputs]:
        samples = list(chain.from_iterable(packs))
        if self.pad_id is None:
            batch = collate_packed(samples, self.rope)
        else:
            batch = collate_padded(samples, self.rope, self.pad_id)
        return {STEP: StepInputs(batch, self.objective.context(batch, self.provenance), len(packs))}
