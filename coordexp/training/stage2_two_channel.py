"""Two-channel training from a resolved config to a checkpoint. TRAIN-*.

Only wiring: what each part does lives in its own module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.config import check_trainer
from coordexp.losses.masks import Provenance
from coordexp.training.build import build_run
from coordexp.training.channels import ChannelA, TwoChannels
from coordexp.training.schedule import Schedule
from coordexp.training.stage2 import build_backend, build_phase, build_record_trainer, build_row_limits
from coordexp.training.trainer import train_to_end

if TYPE_CHECKING:
    from coordexp.config import Config
    from coordexp.rollout.types import RolloutBackend
    from coordexp.training.build import Run
    from coordexp.training.trainer import CoordTrainer, FinishedRun


def run_stage2_two_channel(config: Config) -> FinishedRun:
    """Train as `config` says and return the final checkpoint, which is in `<output_dir>/final`."""
    return train_to_end(build_stage2_two_channel(config))


def build_stage2_two_channel(config: Config) -> CoordTrainer:
    """All that a run needs, its manifest written, before its first step. Raises as `build_stage1` does."""
    run = build_run(check_trainer(config, "stage2_two_channel"))
    backend = build_backend(run)
    return build_record_trainer(run, backend, build_channels(run, backend).plan)


def build_channels(run: Run, backend: RolloutBackend) -> TwoChannels:
    """What makes plans from ground truth (Channel A) and from rollouts (Channel B), and which of both when."""
    section = run.config.stage2_ab
    assert section is not None, "the loader demands it of this trainer"
    builder = run.builder(Provenance.A1, then=Provenance.A2)
    a = ChannelA(builder, build_row_limits(run.config), run.learner.run.placement.device)
    return TwoChannels(Schedule.of(section.schedule.b_ratio), a.plan, build_phase(run, backend).plan)
