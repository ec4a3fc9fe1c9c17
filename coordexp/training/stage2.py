"""What both trainers of stage 2 are wired from: one backend for training and evaluation, the phase, the evaluation.

Contract ids: TRAIN-029..TRAIN-032.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordexp.config import units_per_step
from coordexp.forward.unwrap import unwrap_model
from coordexp.losses.masks import Provenance
from coordexp.matching.types import build_settings
from coordexp.rollout.colocate import ColocateBackend
from coordexp.rollout.grammar import build_expression
from coordexp.rollout.hf import HfBackend
from coordexp.rollout.types import Decoding
from coordexp.rollout.vllm_client import render_request_config
from coordexp.training.build import build_trainer
from coordexp.training.colocate_rollouts import build_colocate_backend
from coordexp.training.forwards import RowLimits
from coordexp.training.layout import build_validation, open_stream, packed_row_length
from coordexp.training.record_steps import RecordPlans
from coordexp.training.rollout_evaluation import RolloutEvaluation, build_evaluation_settings
from coordexp.training.rollout_phase import PhaseSettings, RolloutPhase
from coordexp.training.server_connect import vllm_mode
from coordexp.training.server_rollouts import build_server_backend
from coordexp.training.trainer import TrainerParts

if TYPE_CHECKING:
    from coordexp.config import Config
    from coordexp.config.rollout_sections import RolloutMatchingConfig
    from coordexp.rollout.types import RolloutBackend
    from coordexp.training.build import Run
    from coordexp.training.record_steps import MakePlan
    from coordexp.training.trainer import CoordTrainer


def rollout_section(config: Config) -> RolloutMatchingConfig:
    """`rollout_matching`, which the loader demands of stage 2."""
    assert config.rollout_matching is not None
    return config.rollout_matching


def build_decoding(config: Config) -> Decoding:
    """How answers are drawn, without the seed that each step has."""
    section = rollout_section(config)
    return Decoding(
        max_new_tokens=section.max_new_tokens,
        temperature=section.decoding.temperature,
        top_p=section.decoding.top_p,
        top_k=section.decoding.top_k,
        repetition_penalty=section.repetition_penalty,
        grammar=build_expression(config) if section.decoding.grammar else None,
    )


def build_backend(run: Run) -> RolloutBackend:
    """What answers prompts in training and evaluation: the learner's own model, in batches of `decode_batch_size`, the
    servers that the run is connected to, or an engine in this process.
    """
    section = rollout_section(run.config)
    if run.servers:
        return build_server_backend(run, section)
    if vllm_mode(run.config) == "colocate":
        return build_colocate_backend(run)
    model = unwrap_model(run.learner.model)
    confident = section.eval_detection.score_mode == "confidence"
    return HfBackend(
        model,
        run.foundation.encoder.processor,
        decode_batch_size=section.decode_batch_size,
        logprobs=confident,
        repeats=section.repeat_terminate,
    )


def describe_rollouts(run: Run, backend: RolloutBackend) -> dict[str, Any]:
    """The run's rollout servers by URL, or the engine in this process, as they describe themselves, and the knobs that
    each request is sent with; empty where there are none.
    """
    if isinstance(backend, ColocateBackend):
        told = {"rollout_engine": backend.describe()}
    elif run.servers:
        told = {"rollout_servers": {server.connection.base_url: dict(server.liveness) for server in run.servers}}
    else:
        return {}
    return {**told, "request_config": render_request_config(build_decoding(run.config))}


def build_row_limits(config: Config) -> RowLimits:
    """How the samples of a step are laid into forwards."""
    return RowLimits(packed_row_length(config), config.training.per_device_train_batch_size)


def build_phase(run: Run, backend: RolloutBackend) -> RolloutPhase:
    """What makes plans from rollouts."""
    config, section = run.config, rollout_section(run.config)
    settings = PhaseSettings(
        decoding=build_decoding(config),
        matching=build_settings(section),
        training_seed=config.training.seed,
        image_root=run.foundation.samples["train"].file.image_root,
        rows=build_row_limits(config),
    )
    device = run.learner.run.placement.device
    monitor = run.dumps.monitor
    dump = None if monitor is None else monitor.train
    return RolloutPhase(backend, run.builder(Provenance.B), settings, device, dump)


def build_evaluation(run: Run, backend: RolloutBackend) -> RolloutEvaluation | None:
    """The evaluation of the model's own answers; None without validation records."""
    if "val" not in run.foundation.samples:
        return None
    section = rollout_section(run.config)
    settings = build_evaluation_settings(build_decoding(run.config), section.eval_detection, run.config.training.seed)
    evaluation = RolloutEvaluation(
        backend, run.foundation.encoder, run.foundation.samples["val"], settings, run.learner.shard
    )
    if run.dumps.monitor is not None:
        evaluation.dump = run.dumps.monitor.evaluation
    return evaluation


def build_record_trainer(run: Run, backend: RolloutBackend, make: MakePlan) -> CoordTrainer:
    """The trainer whose plans `make` makes from the records of each step."""
    config, shard = run.config, run.learner.shard
    stream = open_stream(run, "train")
    per_step = units_per_step(config, shard.world_size)

    def release() -> None:
        run.dumps.tell()
        if isinstance(backend, ColocateBackend):
            backend.close()

    parts = TrainerParts(
        dataset=stream.records,
        plans=RecordPlans(stream, per_step, shard, config.training.seed, make),
        # Teacher-forced on ground truth, as in stage 1, so that runs of all stages can be compared.
        validation=build_validation(run, run.builder(Provenance.STAGE1)),
        run=run.learner.run,
        row_length=packed_row_length(config),
        rollouts=build_evaluation(run, backend),
        launch=describe_rollouts(run, backend),
        release=release,
    )
    return build_trainer(run, parts)
