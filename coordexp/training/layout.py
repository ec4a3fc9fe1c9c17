"""What a run over ground truth is laid out as: rows before the model is loaded, plans and validation after. TRAIN-*."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from coordexp.config import units_per_step
from coordexp.data.seeds import derive_seed
from coordexp.packing.plan import PackPlan, build_plan
from coordexp.training.ground_truth import GroundTruthPlans, Split, ValidationForwards
from coordexp.training.measure import measure
from coordexp.training.stream import PreparedRecords, RecordStream, loader_settings

if TYPE_CHECKING:
    from coordexp.config import Config
    from coordexp.data.run_inputs import Role
    from coordexp.training.build import Foundation, Run
    from coordexp.training.forwards import ForwardBuilder

_LOG = logging.getLogger(__name__)


def lay_out(config: Config, foundation: Foundation) -> dict[Role, PackPlan]:
    """Measure every sample and lay it out in rows, without opening an image; a row a sample where nothing is packed,
    and where a step packs what it has made of its records.

    Raises `EncodeError` for a sample that is longer than a row, or that cannot be encoded.
    """
    training, beforehand = config.training, config.custom.trainer_variant == "stage1"
    plans: dict[Role, PackPlan] = {}
    for role, samples in foundation.samples.items():
        records = samples.records
        lengths = measure(records, foundation.encoder, config.data.dataset_num_proc, role)
        packed = training.packing and (beforehand if role == "train" else training.eval_packing)
        plans[role] = build_plan(lengths, config.global_max_length) if packed else singles(lengths)
        _LOG.info("%s: %d samples in %d rows, fill %.3f", role, len(records), len(plans[role].packs), plans[role].fill)
    return plans


def packed_row_length(config: Config) -> int | None:
    """Tokens that a packed row of training may hold; None for a row a sample."""
    return config.global_max_length if config.training.packing else None


def singles(lengths: Sequence[int]) -> PackPlan:
    """A row a sample, as long as the longest."""
    longest = max(lengths)
    return PackPlan(tuple((index,) for index in range(len(lengths))), sum(lengths) / (longest * len(lengths)), longest)


def open_stream(run: Run, role: Role) -> RecordStream:
    """The records of one role, read ahead as `data.dataloader_*` says."""
    samples = run.foundation.samples[role]
    prepared = PreparedRecords(samples.records, run.foundation.encoder, samples.file.image_root)
    # Reading for a validation must not move the stream that dropout draws from.
    seed = derive_seed(run.config.training.seed, "dataloader")
    own = torch.Generator().manual_seed(seed) if role == "val" else None
    return RecordStream(prepared, loader_settings(run.config.data), own)


def build_ground_truth_plans(run: Run, builder: ForwardBuilder) -> GroundTruthPlans:
    """One plan an optimizer step over the training records, as they are packed."""
    training, shard = run.config.training, run.learner.shard
    split = Split(training.per_device_train_batch_size, units_per_step(run.config, shard.world_size), shard)
    device = run.learner.run.placement.device
    return GroundTruthPlans(open_stream(run, "train"), run.layout["train"], builder, split, training.seed, device)


def build_validation(run: Run, builder: ForwardBuilder) -> ValidationForwards | None:
    """The forwards over the validation records; None without any."""
    if "val" not in run.foundation.samples:
        return None
    shard = run.learner.shard
    split = Split(run.config.training.per_device_eval_batch_size, units_per_step(run.config, shard.world_size), shard)
    device = run.learner.run.placement.device
    return ValidationForwards(open_stream(run, "val"), run.layout["val"], builder, split, device)
