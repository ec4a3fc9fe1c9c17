"""Two-channel training from a resolved config to a checkpoint. TRAIN-*.

Only wiring: what each part does lives in its own module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.config import check_trainer
from coordexp.training.build import build_run
from coordexp.training.stage2 import build_backend, build_phase, build_record_trainer
from coordexp.training.trainer import train_to_end

if TYPE_CHECKING:
    from coordexp.config import Config
    from coordexp.training.trainer import CoordTrainer, FinishedRun


def run_stage2_two_channel(config: Config) -> FinishedRun:
    """Train as `config` says and return the final checkpoint, which is in `<output_dir>/final`."""
    return train_to_end(build_stage2_two_channel(config))


def build_stage2_two_channel(config: Config) -> CoordTrainer:
    """All that a run needs, its manifest written, before its first step. Raises as `build_stage1` does."""
    run = build_run(check_trainer(config, "stage2_two_channel"))
    backend = build_backend(run)
    return build_record_trainer(run, backend, build_phase(run, backend).plan)
