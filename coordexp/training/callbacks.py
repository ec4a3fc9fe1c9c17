"""What happens around checkpoints and evaluations: the delay before the first one, and one evaluation of the same
weights.

Contract ids: TRAIN-*.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Suppresses saving during the first `delay` steps (AUDIT-7.3)."""

    def __init__(self, delay: int = 0) -> None:
        self.delay = delay

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Runs after upstream's own flow control has decided."""
        if state.global_step < self.delay:
            control.should_save = False
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
