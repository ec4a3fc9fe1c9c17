"""Prepared records in, planned forwards out; forwards of one rank in, the step that all ranks agree on out.

Contract ids: TRAIN-001, TRAIN-016, TRAIN-017, TRAIN-030.
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
from coordexp.packing.plan import build_plan
from coordexp.training.order import split_steps
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
    """Lays samples into the batch of one forward. `pad_id` None puts them side by side, an id pads them to rows.

    With `then`, forwards have a second context of that provenance: Channel A's, of the last forward.
    """

    encoder: Encoder
    rope: RopeFunction
    objective: Objective
    provenance: Provenance
    pad_id: int | None = None
    then: Provenance | None = None

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
        later = None if self.then is None else self.objective.context(batch, self.then)
        return PlannedForward(tuple(samples), tuple(images), batch, context, n_packs, later)

    def filler(self) -> PlannedForward:
        """A forward with an image and nothing to learn: it reaches every parameter that others reach."""
        sample, image = self.encoder.blank()
        return self.build([without_targets(sample)], [image], 0)


@dataclass(frozen=True, slots=True)
class RowLimits:
    """`row_length` is the tokens that a packed row may hold, None for a row a sample; `per_forward` rows share a
    forward.
    """

    row_length: int | None
    per_forward: int


def pack_step(
    builder: ForwardBuilder, samples: Sequence[EncodedSample], images: Sequence[Image.Image], limits: RowLimits
) -> list[PlannedForward]:
    """This rank's forwards of a step: all of its samples, laid out at once, whole, the first of them in the first."""
    rows: Sequence[tuple[int, ...]] = [(index,) for index in range(len(samples))]
    if limits.row_length is not None:
        rows = build_plan([len(sample) for sample in samples], limits.row_length).packs
    forwards = []
    for packs in split_steps(rows, limits.per_forward):
        chosen = [index for pack in packs for index in pack]
        forwards.append(builder.build([samples[i] for i in chosen], [images[i] for i in chosen], len(packs)))
    return forwards


def agree(
    kind: StepKind, forwards: Sequence[PlannedForward], filler: Callable[[], PlannedForward], device: torch.device
) -> StepPlan:
    """The plan of this rank: counts summed over all ranks, and fillers up to the largest number of forwards.

    One collective, so every rank calls it once a step, with or without forwards of its own.
    """
    contexts = [context for forward in forwards or [filler()] for context in forward.contexts]
    counts = torch.stack([count_normalizers(context).to_tensor() for context in contexts]).sum(0)
    told = torch.cat([counts, counts.new_tensor([len(forwards)])]).to(device)
    everyone = [told]
    if dist.is_initialized():
        everyone = [torch.empty_like(told) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, told)
    gathered = torch.stack(everyone)
    missing = int(gathered[:, -1].max()) - len(forwards)
    padded = (*forwards, *(filler() for _ in range(missing)))
    return StepPlan(kind, padded, Normalizers.from_tensor(gathered[:, :-1].sum(0)))
