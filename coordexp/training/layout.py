"""What a run over ground truth is laid out as: rows before the model is loaded, plans and validation after. TRAIN-*."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from coordexp.config import units_per_step
from coordexp.data.seeds import derive_seed
from coordexp.packing.plan import PackPlan, build_plan
from coordexp.training.ground_truth import GroundTruthPlans, Split, ValidationForwards
from coordexp.training.measure import measure
from coordexp.training.stream import PreparedRecords, RecordStream, loader_settings
from coordexp.training.trainer import TrainerParts

if TYPE_CHECKING:
    from coordexp.config import Config
    from coordexp.data.run_inputs import Role
    from coordexp.training.build import Foundation, Learner
    from coordexp.training.forwards import ForwardBuilder

_LOG = logging.getLogger(__name__)


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
    training, settings = config.training, loader_settings(config.data)
    shard, device = learner.shard, learner.run.placement.device

    def stream(role: Role, generator: torch.Generator | None = None) -> RecordStream:
        samples = foundation.samples[role]
        prepared = PreparedRecords(samples.records, foundation.encoder, samples.file.image_root)
        return RecordStream(prepared, settings, generator)

    rows = units_per_step(config, shard.world_size)
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
