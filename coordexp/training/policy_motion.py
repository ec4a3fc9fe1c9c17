"""Whether the weights can have moved since they were last pushed to a rollout server. Contract id: TRAIN-050.

In: the trainer's events. Out: a yes or no, by which an equal digest is a fault or none: a warm-up begins with a step at
rate 0, which leaves every weight as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer


class PolicyMotion(TrainerCallback):  # type: ignore[misc]
    """Counts a step that was taken with a rate above 0 on something that is trained."""

    def __init__(self) -> None:
        self._rated = False
        self._moved = False

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, *, optimizer: AcceleratedOptimizer, **_: Any
    ) -> None:
        """Read the rates of the step that begins: DeepSpeed takes it before the optimizer's own events."""
        self._rated = any(
            float(group["lr"]) > 0 and any(parameter.requires_grad for parameter in group["params"])
            for group in optimizer.param_groups
        )

    def on_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, *, optimizer: AcceleratedOptimizer, **_: Any
    ) -> None:
        """A step that the gradient scaler has left out (float16 overflow) moves nothing."""
        self._moved |= self._rated and not optimizer.step_was_skipped

    def moved_since_push(self) -> bool:
        """Since the last `note_push`, or since the run began."""
        return self._moved

    def note_push(self) -> None:
        """The weights have just been pushed."""
        self._moved = False
