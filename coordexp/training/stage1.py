"""Stage 1 from a resolved config to a checkpoint: ground truth alone, packed once before training. TRAIN-*.

Only wiring: what each part does lives in its own module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.config import check_trainer
from coordexp.losses.masks import Provenance
from coordexp.training.build import build_run, build_trainer
from coordexp.training.layout import build_ground_truth_plans, build_validation, packed_row_length
from coordexp.training.trainer import TrainerParts, train_to_end

if TYPE_CHECKING:
    from coordexp.config import Config
    from coordexp.training.trainer import CoordTrainer, FinishedRun


def run_stage1(config: Config) -> FinishedRun:
    """Train as `config` says and return the final checkpoint, which is in `<output_dir>/final`."""
    trainer = build_stage1(config)
    return train_to_end(trainer)


def build_stage1(config: Config) -> CoordTrainer:
    """All that a run needs, its manifest written, before its first step.

    Raises before the model is loaded for another trainer's configuration, and what `build_run` raises.
    """
    run = build_run(check_trainer(config, "stage1"))
    builder = run.builder(Provenance.STAGE1)
    plans = build_ground_truth_plans(run, builder)
    parts = TrainerParts(
        dataset=plans.dataset,
        plans=plans,
        validation=build_validation(run, builder),
        run=run.learner.run,
        row_length=packed_row_length(config),
    )
    return build_trainer(run, parts)
