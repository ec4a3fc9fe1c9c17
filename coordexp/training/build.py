"""What every variant's run is made of, each part built once and handed on. Contract ids: TRAIN-*.

In: a resolved config. Out: first what is known before weights are loaded (records, encoder, rows, upstream's
arguments), then the model with its tuner, and the trainer around a variant's plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from coordexp.bridges.swift_forward import restore_forward
from coordexp.config import Config
from coordexp.data.run_inputs import Role, RunSamples, read_run_samples
from coordexp.encode.checkpoint_record import check_recorded_vocabulary
from coordexp.encode.encoder import Encoder
from coordexp.encode.processor import load_processor
from coordexp.encode.settings import build_settings
from coordexp.forward.head import install_vocabulary_head
from coordexp.forward.segments import register_segments
from coordexp.forward.self_context import SelfContext
from coordexp.losses.defaults import resolve_manifest
from coordexp.losses.objective import build_objective
from coordexp.packing.backend import PackingBackend, check_packing_backend
from coordexp.packing.positions import RopeIndex, build_rope_index
from coordexp.training.arguments import build_swift_arguments, world_size
from coordexp.training.callbacks import CheckpointCallback, EvaluationCallback
from coordexp.training.chance import seed_everything
from coordexp.training.console import install_run_log
from coordexp.training.dumps import Dumps, build_dumps
from coordexp.training.forwards import ForwardBuilder
from coordexp.training.layout import lay_out
from coordexp.training.loop import ForwardRunner
from coordexp.training.manifest import Beginnings, read_beginnings, write_run_files
from coordexp.training.policy_motion import PolicyMotion
from coordexp.training.preflight import check_run, check_vocabulary
from coordexp.training.probe import probe_packing
from coordexp.training.record_gate import check_records, shared_images
from coordexp.training.server_connect import connect_servers, uses_servers
from coordexp.training.stage2_preflight import check_answer_room, check_supported
from coordexp.training.trainer import CoordTrainer, TrainerParts
from coordexp.training.types import Placement, Shard

if TYPE_CHECKING:
    from swift.arguments import SftArguments
    from torch import nn

    from coordexp.config.rollout_sections import Stage2AbConfig
    from coordexp.config.sections import DataConfig
    from coordexp.data.shared_images import SharedImages
    from coordexp.losses.masks import Provenance
    from coordexp.losses.objective import Objective
    from coordexp.packing.plan import PackPlan
    from coordexp.rollout.vllm_client import LiveServer


@dataclass(frozen=True, eq=False)
class Foundation:
    """What is known before weights are loaded. `backend` is None where rows are padded, `beginnings` on every rank but
    the first, `shared` (the images of both training and validation) there too and without a validation.
    """

    samples: Mapping[Role, RunSamples]
    encoder: Encoder
    backend: PackingBackend | None
    beginnings: Beginnings | None
    shared: SharedImages | None = None


@dataclass(frozen=True, eq=False)
class Learner:
    """The model with its tuner, adapter and head, and what runs a forward of it on this rank."""

    model: nn.Module
    rope: RopeIndex
    run: ForwardRunner
    shard: Shard
    pad_id: int | None


def build_foundation(config: Config) -> Foundation:
    """Ask whether the run can begin, read and check the data, seed the run, build the encoder.

    Raises for what `check_run` refuses, for records that cannot be trained on, for what the run's manifest could not
    tell, and for a processor or tokenizer that drifted.
    """
    model = check_run(config)
    seed_everything(config.training.seed)
    samples = read_run_samples(config)
    beginnings = read_beginnings(config, samples)
    backend = check_packing_backend(config.model.attn_impl) if config.training.packing else None
    encoder = Encoder(load_processor(model.folder), build_settings(config))
    check_recorded_vocabulary(model.folder, encoder.tokenizer)
    check_vocabulary(config, encoder.coords, model)
    stage2 = config.custom.trainer_variant != "stage1"
    check_records(samples, encoder, boxes_only=stage2)
    if stage2:
        check_answer_room(config, samples, encoder, model.positions)
    return Foundation(samples, encoder, backend, beginnings, shared_images(samples))


def build_learner(config: Config, arguments: SftArguments, encoder: Encoder, objective: Objective) -> Learner:
    """Model and tuner from ms-swift; head, coord offsets and the runner of forwards from the project."""
    from swift.pipelines.train.tuner import TunerMixin

    from coordexp.training.optimizer import install_adapter

    register_segments()
    model, _ = arguments.get_model_processor()
    restore_forward(model)
    encoder.template.set_mode("train")
    model = TunerMixin.prepare_model(arguments, model, template=encoder.template, train_dataset=None)
    install_vocabulary_head(model)
    install_adapter(model, encoder.coords.ids, config.custom.coord_offset)
    upstream = arguments.training_args
    return Learner(
        model=model,
        rope=build_rope_index(model.config),
        run=ForwardRunner(
            encoder,
            objective,
            encoder.coords.ids,
            placement_on(upstream.device, config.data),
            build_self_context(config.stage2_ab),
        ),
        shard=Shard(upstream.process_index, upstream.world_size),
        pad_id=None if config.training.packing else int(encoder.tokenizer.pad_token_id),
    )


def build_self_context(config: Stage2AbConfig | None) -> SelfContext:
    """How Channel A runs; without a section nothing has a self context, and nothing reads it."""
    if config is None:
        return SelfContext()
    return SelfContext(config.n_softctx_iter, config.softctx_grad_mode)


def placement_on(device: torch.device, data: DataConfig) -> Placement:
    """How forwards reach `device`; page-locked memory serves a GPU alone."""
    return Placement(device, data.dataloader_pin_memory and device.type == "cuda")


@dataclass(frozen=True, eq=False)
class Run:
    """All that a trainer is made of, before a variant gives it plans. `servers` are there where they generate; `motion`
    watches whether weights can have moved since they were pushed there; `dumps` are written for a person.
    """

    config: Config
    foundation: Foundation
    layout: Mapping[Role, PackPlan]
    arguments: SftArguments
    learner: Learner
    servers: tuple[LiveServer, ...] = ()
    motion: PolicyMotion = field(default_factory=PolicyMotion)
    dumps: Dumps = field(default_factory=Dumps)

    def builder(self, provenance: Provenance, then: Provenance | None = None) -> ForwardBuilder:
        """What lays samples into forwards of this kind; `then` is the context of a last forward, where one follows."""
        learner = self.learner
        return ForwardBuilder(
            learner.run.encoder, learner.rope, learner.run.objective, provenance, learner.pad_id, then
        )


def build_run(config: Config) -> Run:
    """Everything but the plans. Raises before the model is loaded for what `check_run` refuses, bad data, a sample that
    is longer than a row, and a rollout server that does not run what the configuration says.
    """
    check_supported(config, world_size())
    foundation = build_foundation(config)
    layout = lay_out(config, foundation)
    servers = connect_servers(config, foundation.encoder) if uses_servers(config) else ()
    objective = build_objective(resolve_manifest(config))
    arguments = build_swift_arguments(config)
    learner = build_learner(config, arguments, foundation.encoder, objective)
    dumps = build_dumps(config, Path(arguments.output_dir), foundation.encoder.pieces, learner.shard.rank)
    return Run(config, foundation, layout, arguments, learner, servers, dumps=dumps)


def build_trainer(run: Run, parts: TrainerParts) -> CoordTrainer:
    """ms-swift's trainer around a variant's plans, the run's own files written, packed rows probed where they must be.

    Raises `PackingLeak` where packed samples see each other.
    """
    config, learner, arguments = run.config, run.learner, run.arguments
    trainer = CoordTrainer(
        parts=parts, model=learner.model, args=arguments.training_args, template=learner.run.encoder.template
    )
    trainer.add_callback(CheckpointCallback(config.training.save_delay_steps))
    trainer.add_callback(EvaluationCallback())
    trainer.add_callback(run.motion)
    install_run_log(trainer, Path(arguments.output_dir))
    if trainer.is_world_process_zero():
        write_run_files(config, arguments.output_dir, run.foundation, learner.run.objective.manifest, parts.launch)
    backend = run.foundation.backend
    if backend is not None and backend.needs_probe(torch.cuda.is_available()):
        # Autocast decides which kernel attends.
        with trainer.accelerator.autocast():
            probe_packing(learner, run.foundation.samples["train"])
    return trainer
