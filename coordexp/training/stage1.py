"""Stage 1 from a resolved config to a checkpoint: ground truth alone, packed once before training. TRAIN-*.

Only wiring: what each part does lives in its own module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from coordexp.config import check_trainer
from coordexp.losses.masks import Provenance
from coordexp.losses.objective import build_stage1_objective
from coordexp.training.arguments import build_swift_arguments
from coordexp.training.build import build_foundation, build_learner, build_trainer
from coordexp.training.forwards import ForwardBuilder
from coordexp.training.layout import build_parts, lay_out
from coordexp.training.manifest import write_run_files
from coordexp.training.probe import probe_packing
from coordexp.training.trainer import train_to_end

if TYPE_CHECKING:
    from coordexp.config import Config
    from coordexp.training.trainer import CoordTrainer, FinishedRun


def run_stage1(config: Config) -> FinishedRun:
    """Train as `config` says and return the final checkpoint, which is in `<output_dir>/final`."""
    trainer = build_stage1(config)
    return train_to_end(trainer)


def build_stage1(config: Config) -> CoordTrainer:
    """All that a run needs, its manifest written, before its first step.

    Raises before the model is loaded for another trainer's configuration, what `check_run` refuses, bad data, or an
    oversize sample.
    """
    foundation = build_foundation(check_trainer(config, "stage1"))
    layout = lay_out(config, foundation)
    objective = build_stage1_objective(config.custom)
    arguments = build_swift_arguments(config)
    learner = build_learner(config, arguments, foundation.encoder, objective)
    builder = ForwardBuilder(foundation.encoder, learner.rope, objective, Provenance.STAGE1, learner.pad_id)
    parts = build_parts(config, foundation, layout, learner, builder)
    trainer = build_trainer(arguments, learner, parts, config.training.save_delay_steps)
    if trainer.is_world_process_zero():
        write_run_files(config, arguments.output_dir, foundation, objective.manifest)
    if foundation.backend is not None and foundation.backend.needs_probe(torch.cuda.is_available()):
        # Autocast decides which kernel attends.
        with trainer.accelerator.autocast():
            probe_packing(learner, foundation.samples["train"], layout["train"])
    return trainer
