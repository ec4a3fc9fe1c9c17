"""What happens around checkpoints and evaluations: the delay before the first one, what must not stay in it, and one
evaluation of the same weights.

Contract ids: TRAIN-*, ART-004.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from coordexp.artifacts.checkpoint_policy import check_weights_only

TRAINER_FILES = ("trainer_state.json", "training_args.bin", "args.json")


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Suppresses saving during the first `delay` steps and leaves weights alone in each checkpoint (AUDIT-7.3)."""

    def __init__(self, delay: int = 0) -> None:
        self.delay = delay

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Runs after upstream's own flow control has decided."""
        if state.global_step < self.delay:
            control.should_save = False
        return control

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Rank 0 removes what only a resumed trainer would read, and checks that nothing of it is left."""
        if state.is_world_process_zero:
            check_weights_only(strip_trainer_files(Path(args.output_dir) / f"checkpoint-{state.global_step}"))
        return control


class EvaluationCallback(TrainerCallback):  # type: ignore[misc]
    """Evaluates a step's weights once: ms-swift asks at the last step, and an epoch that ends there asks again."""

    def __init__(self) -> None:
        self.evaluated: int | None = None

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Remember the step."""
        self.evaluated = state.global_step

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Runs after upstream's own flow control has decided."""
        if state.global_step == self.evaluated:
            control.should_evaluate = False
        return control


def strip_trainer_files(folder: Path) -> Path:
    """Remove the trainer's own files from a checkpoint folder."""
    for name in TRAINER_FILES:
        (folder / name).unlink(missing_ok=True)
    return folder
