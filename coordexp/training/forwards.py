"""Prepared records in, planned forwards out; forwards of one rank in, the step that all ranks agree on out.

Contract ids: TRAIN-001, TRAIN-016, TRAIN-017.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from coordexp.encode.assemble import without_targets
from coordexp.losses.normalizers import Normalizers, count_normalizers
from coordexp.packing.collate import collate_packed, collate_padded
from coordexp.training.types import PlannedForward, StepKind, StepPlan

if TYPE_CHECKING:
    from PIL import Image

    from coordexp.encode.encoder import Encoder, PreparedRecord
    from coordexp.encode.types import EncodedSample
    from coordexp.losses.masks import Provenance
    from coordexp.losses.objective import Objective
    from coordexp.packing.positions import RopeFunction


@dataclass(frozen=True, eq=False)
class ForwardBuilder:
    """Lays samples into the batch of one forward. `pad_id` None puts them side by side, an id pads them to rows."""

    encoder: Encoder
    rope: RopeFunction
    objective: Objective
    provenance: Provenance
    pad_id: int | None = None

    def from_records(self, packs: Sequence[Sequence[PreparedRecord]]) -> PlannedForward:
        """One forward over the ground truth of `packs`, rendered and tokenized here, once."""
        prepared = tuple(chain.from_iterable(packs))
        samples = [self.encoder.sample(item.record, item.prompt) for item in prepared]
        return self.build(samples, [item.image for item in prepared], len(packs))

    def build(self, samples: Sequence[EncodedSample], images: Sequence[Image.Image], n_packs: int) -> PlannedForward:
        """One forward over `samples`, whose pixels are made from `images` when it runs."""
        if self.pad_id is None:
            batch = collate_packed(samples, self.rope)
        else:
            batch = collate_padded(samples, self.rope, self.pad_id)
        context = self.objective.context(batch, self.provenance)
        return PlannedForward(tuple(samples), tuple(images), batch, context, n_packs)

    def filler(self) -> PlannedForward:
        """A forward with an image and nothing to learn: it reaches every parameter that others reach."""
        sample, image = self.encoder.blank()
        return self.build([without_targets(sample)], [image], 0)


def agree(
    kind: StepKind, forwards: Sequence[PlannedForward], filler: Callable[[], PlannedForward], device: torch.device
) -> StepPlan:
    """The plan of this rank: counts summed over all ranks, and fillers up to the largest number of forwards.

    One collective, so every rank calls it once a step, with or without forwards of its own.
    """
    counts = torch.stack([count_normalizers(forward.context).to_tensor() for forward in forwards or [filler()]]).sum(0)
    told = torch.cat([counts, counts.new_tensor([len(forwards)])]).to(device)
    everyone = [told]
    if dist.is_initialized():
        everyone = [torch.empty_like(told) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, told)
    gathered = torch.stack(everyone)
    missing = int(gathered[:, -1].max()) - len(forwards)
    padded = (*forwards, *(filler() for _ in range(missing)))
    return StepPlan(kind, padded, Normalizers.from_tensor(gathered[:, :-1].sum(0)))
