"""Records and their packs in, the plans of an epoch and the forwards of a validation out.

Packs are laid out once, before training; here they get their order and their rank. TRAIN-001, TRAIN-009, TRAIN-017.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from coordexp.config import check_effective_batch
from coordexp.data.seeds import derive_seed
from coordexp.losses.normalizers import Normalizers, count_normalizers
from coordexp.packing.plan import PackPlan, build_plan
from coordexp.training.build import loader_settings
from coordexp.training.forwards import ForwardBuilder, agree
from coordexp.training.measure import measure
from coordexp.training.order import epoch_order, share_of_step, split_steps
from coordexp.training.stream import PreparedRecords, RecordStream
from coordexp.training.trainer import TrainerParts
from coordexp.training.types import FORWARD, PLAN, PlannedForward, Shard, StepKind, StepPlan

if TYPE_CHECKING:
    from coordexp.config import Config
    from coordexp.data.run_inputs import Role
    from coordexp.training.build import Foundation, Learner

_LOG = logging.getLogger(__name__)
Pack = tuple[int, ...]


def lay_out(config: Config, foundation: Foundation) -> dict[Role, PackPlan]:
    """Measure every sample and lay it out in rows, without opening an image; a row a sample where nothing is packed.

    Raises `EncodeError` for a sample that is longer than a row, or that cannot be encoded.
    """
    training = config.training
    plans: dict[Role, PackPlan] = {}
    for role, samples in foundation.samples.items():
        records = samples.records
        lengths = measure(records, foundation.encoder, config.data.dataset_num_proc, role)
        packed = training.packing and (role == "train" or training.eval_packing)
        plans[role] = build_plan(lengths, config.global_max_length) if packed else singles(lengths)
        _LOG.info("%s: %d samples in %d rows, fill %.3f", role, len(records), len(plans[role].packs), plans[role].fill)
    return plans


def singles(lengths: Sequence[int]) -> PackPlan:
    """A row a sample, as long as the longest."""
    longest = max(lengths)
    return PackPlan(tuple((index,) for index in range(len(lengths))), sum(lengths) / (longest * len(lengths)), longest)


def build_parts(
    config: Config,
    foundation: Foundation,
    layout: Mapping[Role, PackPlan],
    learner: Learner,
    builder: ForwardBuilder,
) -> TrainerParts:
    """The plans of training and the forwards of validation, over the samples of `foundation` as `layout` packs them."""
    training, settings = config.training, loader_settings(config)
    shard, device = learner.shard, learner.run.placement.device

    def stream(role: Role, generator: torch.Generator | None = None) -> RecordStream:
        samples = foundation.samples[role]
        prepared = PreparedRecords(samples.records, foundation.encoder, samples.file.image_root)
        return RecordStream(prepared, settings, generator)

    rows = check_effective_batch(config, shard.world_size) * training.per_device_train_batch_size * shard.world_size
    split = Split(training.per_device_train_batch_size, rows, shard)
    validation = None
    if "val" in foundation.samples:
        # Reading for a validation must not move the stream that dropout draws from.
        own = torch.Generator().manual_seed(derive_seed(training.seed, "dataloader"))
        split_val = Split(training.per_device_eval_batch_size, rows, shard)
        validation = ValidationForwards(stream("val", own), layout["val"], builder, split_val, device)
    return TrainerParts(
        plans=GroundTruthPlans(stream("train"), layout["train"], builder, split, training.seed, device),
        validation=validation,
        run=learner.run,
        row_length=config.global_max_length if training.packing else None,
    )


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
        self.dataset = stream.records
        self.packs = packs
        self._stream, self._builder, self._split, self._seed, self._device = stream, builder, split, seed, device
        self._epoch = 0

    def __len__(self) -> int:
        return -(-len(self.packs.packs) // self._split.per_step)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self._epoch = epoch

    def shares(self) -> list[list[Sequence[Pack]]]:
        """This rank's packs of the epoch: by step, by forward."""
        order = [self.packs.packs[i] for i in epoch_order(len(self.packs.packs), self._seed, self._epoch)]
        steps = split_steps(order, self._split.per_step)
        return [share_of_step(units, self._split.per_forward, self._split.shard) for units in steps]

    def __iter__(self) -> Iterator[dict[str, StepPlan]]:
        shares = self.shares()
        prepared = self._stream.read(record_order(shares))
        for share in shares:
            forwards = [
                self._builder.from_records([[next(prepared) for _ in pack] for pack in packs]) for packs in share
            ]
            yield {PLAN: agree(StepKind.GT, forwards, self._builder.filler, self._device)}


class ValidationForwards:
    """This rank's forwards over a whole set, in file order; equally many on every rank."""

    def __init__(
        self, stream: RecordStream, packs: PackPlan, builder: ForwardBuilder, split: Split, device: torch.device
    ) -> None:
        self.dataset = stream.records
        self._stream, self._builder, self._device = stream, builder, device
        groups = split_steps(packs.packs, split.per_forward)
        self._share: list[Sequence[Pack]] = groups[split.shard.rank :: split.shard.world_size]
        self._length = -(-len(groups) // split.shard.world_size)
        self._normalizers: Normalizers | None = None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, PlannedForward]]:
        prepared = self._stream.read(record_order([self._share]))
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
