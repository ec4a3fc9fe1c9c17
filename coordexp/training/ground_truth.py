"""Records and their packs in, the plans of an epoch and the forwards of a validation out.

Packs are laid out once, before training; here they get their order and their rank. TRAIN-001, TRAIN-009, TRAIN-017.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from coordexp.losses.normalizers import Normalizers, count_normalizers
from coordexp.packing.plan import PackPlan
from coordexp.training.forwards import ForwardBuilder, agree
from coordexp.training.order import epoch_order, share_of_step, split_steps
from coordexp.training.stream import RecordStream
from coordexp.training.types import FORWARD, PLAN, PlannedForward, Shard, StepKind, StepPlan

if TYPE_CHECKING:
    from coordexp.encode.encoder import PreparedRecord

Pack = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """How many packs share a forward and a step, and who this rank is."""

    per_forward: int
    per_step: int
    shard: Shard


class GroundTruthPlans:
    """One plan an optimizer step; what transformers' Trainer takes for its dataloader.

    Every pack is trained on once an epoch, in an order that the seed and the epoch decide.
    """

    def __init__(
        self,
        stream: RecordStream,
        packs: PackPlan,
        builder: ForwardBuilder,
        split: Split,
        seed: int,
        device: torch.device,
    ) -> None:
        self.stream, self.dataset, self.packs, self.split = stream, stream.records, packs, split
        self._builder, self._seed, self._device = builder, seed, device
        self._epoch = 0

    def __len__(self) -> int:
        return -(-len(self.packs.packs) // self.split.per_step)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self._epoch = epoch

    def begin_step(self, step: int) -> None:
        """Nothing of a plan over ground truth depends on the step."""

    def shares(self) -> list[list[Sequence[Pack]]]:
        """This rank's packs of the epoch: by step, by forward."""
        order = [self.packs.packs[i] for i in epoch_order(len(self.packs.packs), self._seed, self._epoch)]
        steps = split_steps(order, self.split.per_step)
        return [share_of_step(units, self.split.per_forward, self.split.shard) for units in steps]

    def __iter__(self) -> Iterator[dict[str, StepPlan]]:
        shares = self.shares()
        prepared = self.stream.read(record_order(shares))
        for share in shares:
            yield {PLAN: self._plan(share, prepared)}

    def _plan(self, share: list[Sequence[Pack]], prepared: Iterator[PreparedRecord]) -> StepPlan:
        forwards = [self._builder.from_records([[next(prepared) for _ in pack] for pack in packs]) for packs in share]
        return agree(StepKind.GT, forwards, self._builder.filler, self._device)


class ValidationForwards:
    """This rank's forwards over a whole set, in file order; equally many on every rank."""

    def __init__(
        self, stream: RecordStream, packs: PackPlan, builder: ForwardBuilder, split: Split, device: torch.device
    ) -> None:
        self.stream, self.dataset, self.packs, self.split = stream, stream.records, packs, split
        self._builder, self._device = builder, device
        groups = split_steps(packs.packs, split.per_forward)
        self._share: list[Sequence[Pack]] = groups[split.shard.rank :: split.shard.world_size]
        self._length = -(-len(groups) // split.shard.world_size)
        self._normalizers: Normalizers | None = None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, PlannedForward]]:
        prepared = self.stream.read(record_order([self._share]))
        for packs in self._share:
            yield {FORWARD: self._builder.from_records([[next(prepared) for _ in pack] for pack in packs])}
        for _ in range(self._length - len(self._share)):
            yield {FORWARD: self._builder.filler()}

    def normalizers(self) -> Normalizers:
        """Counts over the whole set and all ranks, from tokens alone: no image is read. Counted once.

        The first call is a collective, so every rank makes it.
        """
        if self._normalizers is None:
            empty = count_normalizers(self._builder.filler().context)
            counts = sum((self._count(packs) for packs in self._share), start=empty).to_tensor().to(self._device)
            if dist.is_initialized():
                dist.all_reduce(counts)
            self._normalizers = Normalizers.from_tensor(counts)
        return self._normalizers

    def _count(self, packs: Sequence[Pack]) -> Normalizers:
        records = [self.dataset.record(index) for pack in packs for index in pack]
        samples = [self._builder.encoder.sample(record) for record in records]
        return count_normalizers(self._builder.build(samples, (), len(packs)).context)


def record_order(shares: Sequence[Sequence[Sequence[Pack]]]) -> list[int]:
    """The records of forwards by step, in the order in which they are needed."""
    return [index for share in shares for packs in share for pack in packs for index in pack]
