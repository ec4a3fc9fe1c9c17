"""Stage 1 from a resolved config to a checkpoint: data, encoder, packs, model, objective, loop, artifacts.

Contract ids: TRAIN-*.

Only wiring: what each part does lives in its own package. Data is read and measured before any weight is loaded.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from coordexp.artifacts.checkpoint_policy import check_weights_only
from coordexp.config import Config, check_trainer, resolve_input, resolve_output
from coordexp.coords.vocab import build_coord_vocab
from coordexp.data.dataset import RecordDataset, build_dataset
from coordexp.data.run_inputs import RecordFile, Role, check_record_files, find_record_files
from coordexp.data.seeds import derive_seed
from coordexp.encode.encoder import Encoder, build_encoder
from coordexp.encode.processor import load_processor
from coordexp.forward.probe import check_no_leak
from coordexp.losses.defaults import describe_objective
from coordexp.losses.masks import Provenance
from coordexp.losses.objective import build_stage1_objective
from coordexp.packing.backend import check_packing_backend
from coordexp.packing.plan import PackPlan, build_plan
from coordexp.packing.positions import build_rope_index
from coordexp.training.arguments import build_swift_arguments
from coordexp.training.callbacks import CheckpointCallback
from coordexp.training.manifest import write_stage1_manifest
from coordexp.training.packs import PackDataset
from coordexp.training.step import StepCollator
from coordexp.training.trainer import CoordTrainer, TrainerParts

if TYPE_CHECKING:
    from swift.arguments import SftArguments

_LOG = logging.getLogger(__name__)
FINAL = "final"
PROBED = 4


@dataclass(frozen=True, slots=True)
class Split:
    """One file's records and their packs."""

    file: RecordFile
    records: RecordDataset
    plan: PackPlan


@dataclass(frozen=True, slots=True)
class Stage1Run:
    """Where a finished run left its weights, and what it logged (one mapping per log line)."""

    checkpoint: Path
    log_history: tuple[dict[str, float], ...]


def run_stage1(config: Config) -> Stage1Run:
    """Train as `config` says and return the final checkpoint.

    Raises before the model is loaded for another trainer's configuration, bad data, an oversize sample, or an attention
    implementation that packing is not proven for. The final weights are in `<output_dir>/final`.
    """
    check_record_files(check_trainer(config, "stage1"))
    seed_everything(config.training.seed)
    backend = check_packing_backend(config.model.attn_impl) if config.training.packing else None
    model_folder = resolve_input(config, "model.model", config.model.model)
    encoder = build_encoder(load_processor(model_folder), config)
    splits = {role: build_split(config, role, file, encoder) for role, file in find_record_files(config).items()}
    arguments = build_swift_arguments(config, model_folder)
    trainer = build_trainer(config, arguments, encoder, splits)
    data = {str(role): split.file.jsonl for role, split in splits.items()}
    manifest = trainer.parts.objective.manifest
    if trainer.is_world_process_zero():
        _LOG.info("%s", describe_objective(config, manifest))
    write_stage1_manifest(config, Path(arguments.output_dir), data, manifest)
    if config.custom.dump_conversation_text:
        dump_conversation(config, encoder, splits["train"], Path(arguments.output_dir))
    if backend is not None and backend.proven == "gpu-test":
        probe_packing(trainer)
    trainer.train()
    return Stage1Run(save_final(trainer), tuple(trainer.state.log_history))


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch from `training.seed` alone (AUDIT-3.7)."""
    random.seed(derive_seed(seed, "python"))
    np.random.seed(derive_seed(seed, "numpy") % 2**32)
    torch.manual_seed(derive_seed(seed, "torch"))


def build_split(config: Config, role: Role, file: RecordFile, encoder: Encoder) -> Split:
    """Read, order and measure one JSONL (`train` or `val`), and lay it out in packs."""
    custom, training = config.custom, config.training
    train = role == "train"
    records = build_dataset(
        file.jsonl,
        sample_limit=custom.train_sample_limit if train else custom.val_sample_limit,
        with_replacement=custom.sample_with_replacement if train else custom.val_sample_with_replacement,
        object_ordering=custom.object_ordering,
        seed=training.seed,
        split=role,
    )
    lengths = [
        encoder.length(record) for record in tqdm(records, desc=f"measuring {role}", disable=len(records) < 2000)
    ]
    packed = training.packing if train else training.packing and training.eval_packing
    if packed:
        plan = build_plan(lengths, config.global_max_length)
    else:
        singles = tuple((index,) for index in range(len(lengths)))
        plan = PackPlan(singles, sum(lengths) / (max(lengths) * len(lengths)), config.global_max_length)
    _LOG.info("%s: %d samples in %d rows, fill %.3f", role, len(records), len(plan.packs), plan.fill)
    return Split(file, records, plan)


def build_trainer(
    config: Config, arguments: SftArguments, encoder: Encoder, splits: Mapping[Role, Split]
) -> CoordTrainer:
    """Model, tuner and trainer from ms-swift; collator, packs and objective from the project."""
    from swift.pipelines.train.tuner import TunerMixin

    from coordexp.training.optimizer import install_adapter

    model, processor = arguments.get_model_processor()
    template: Any = encoder.template
    template.set_mode("train")
    model = TunerMixin.prepare_model(arguments, model, template=template, train_dataset=None)
    coord_ids = build_coord_vocab(processor.tokenizer).ids
    install_adapter(model, coord_ids, config.custom.coord_offset)
    objective = build_stage1_objective(config.custom)
    pad_id = None if config.training.packing else int(processor.tokenizer.pad_token_id)
    collator = StepCollator(build_rope_index(model.config), objective, Provenance.STAGE1, pad_id)
    packs = {
        role: PackDataset(split.records, encoder, split.plan, split.file.image_root) for role, split in splits.items()
    }
    trainer = CoordTrainer(
        parts=TrainerParts(objective, collator, coord_ids, config.training.seed),
        model=model,
        args=arguments.training_args,
        template=template,
        train_dataset=packs["train"],
        eval_dataset=packs.get("val"),
    )
    trainer.add_callback(CheckpointCallback(config.training.save_delay_steps))
    return trainer


def dump_conversation(config: Config, encoder: Encoder, split: Split, folder: Path) -> Path:
    """Write the first training sample as the tokenizer spells it, special tokens included, for a person to read."""
    written = config.custom.dump_conversation_path
    path = folder / "conversation.txt" if written is None else resolve_output(config, written)
    path.parent.mkdir(parents=True, exist_ok=True)
    sample = encoder.encode(split.records[0], split.file.image_root)
    path.write_text(encoder.tokenizer.decode(sample.input_ids.tolist()) + "\n", encoding="utf-8")
    return path


def probe_packing(trainer: CoordTrainer) -> float:
    """Compare the first samples of the run packed and alone, for an attention that no CPU test covers (AUDIT-5.5)."""
    packs = trainer.train_dataset
    samples = [sample for index in range(min(2, len(packs))) for sample in packs[index]][:PROBED]
    return check_no_leak(trainer.model, samples, trainer.parts.collator.rope)


def save_final(trainer: CoordTrainer) -> Path:
    """Write the weights to `<output_dir>/final` on rank 0, checked to hold nothing of the trainer."""
    folder = Path(trainer.args.output_dir) / FINAL
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        check_weights_only(folder)
    return folder
