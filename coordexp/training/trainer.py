"""transformers' and ms-swift's training loop around the project's plans. Contract ids: TRAIN-*.

To upstream a plan is one batch of one step without accumulation. Overridden are where plans come from, what a step
and a validation batch compute, what a line of the log holds, and what a checkpoint holds; everything else (optimizer,
schedule, precision, DDP, DeepSpeed, logging back ends) is upstream's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from swift.trainers import Seq2SeqTrainer
from torch import nn
from transformers import TrainerCallback

from coordexp.forward.coord_offset import coord_offset_of
from coordexp.forward.coord_offset_files import export_merged
from coordexp.losses.objective import ObjectiveError, ObjectiveOutput
from coordexp.training.errors import TrainingError
from coordexp.training.loop import ForwardRunner, run_plan
from coordexp.training.metrics import WindowMetrics, finite_payload
from coordexp.training.saving import Saved, complete_checkpoint, keep_checkpoints, saving
from coordexp.training.types import FORWARD, PLAN, PlannedForward, Plans, StepPlan

if TYPE_CHECKING:
    from coordexp.training.ground_truth import ValidationForwards
    from coordexp.training.rollout_evaluation import RolloutEvaluation
    from coordexp.training.stream import PreparedRecords


FINAL = "final"


def nothing_to_release() -> None:
    """In a run that holds nothing but its own model."""


@dataclass(frozen=True, eq=False)
class TrainerParts:
    """What the project brings to the loop: the records trained on and the plans of each epoch, the validation's
    forwards, how one is run, and the tokens that a packed row may hold (None for padded rows). `rollouts` evaluates the
    model's own answers where the variant does. `launch` is for the run manifest; `release` is called when the run has
    ended, well or not.
    """

    dataset: PreparedRecords
    plans: Plans
    validation: ValidationForwards | None
    run: ForwardRunner
    row_length: int | None
    rollouts: RolloutEvaluation | None = None
    launch: Mapping[str, Any] = field(default_factory=dict)
    release: Callable[[], None] = nothing_to_release


class CoordTrainer(Seq2SeqTrainer):  # type: ignore[misc]
    """Runs a plan a step."""

    def __init__(self, *, parts: TrainerParts, **kwargs: Any) -> None:
        self.parts = parts
        self.window = WindowMetrics()
        self._step_started = self._evaluation_started = perf_counter()
        validation = None if parts.validation is None else parts.validation.dataset
        super().__init__(train_dataset=parts.dataset, eval_dataset=validation, **kwargs)
        self.add_callback(StepTimer(self))

    def _get_data_collator(self, args: Any, template: Any) -> Any:
        return _only_plans

    def get_train_dataloader(self, skip_batches: int = 0) -> Plans:
        """The plans of an epoch, this rank's forwards in each."""
        if skip_batches:
            raise TrainingError(
                "checkpoints hold weights alone, so a run cannot be resumed inside an epoch; "
                "start a new run from the checkpoint's weights (model.model)"
            )
        return self.parts.plans

    def get_eval_dataloader(self, eval_dataset: Any = None) -> ValidationForwards:
        """This rank's forwards over the validation set, in file order."""
        if self.parts.validation is None:
            raise TrainingError("this run has no validation set; set custom.val_jsonl")
        return self.parts.validation

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, StepPlan]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, StepPlan]], None]:
        """The next step's plan; it carries its own counts, so upstream has nothing to count."""
        self._step_started = perf_counter()
        self.parts.plans.begin_step(self.state.global_step)
        planned = next(epoch_iterator, None)
        self.window.time("time/data_s", self._step_started)
        if planned is not None:
            self.window.merge(planned[PLAN].observed)
        return ([] if planned is None else [planned]), None

    def training_step(
        self, model: nn.Module, inputs: Mapping[str, StepPlan], num_items_in_batch: None = None
    ) -> torch.Tensor:
        """Forward and backward of the step's plan; its loss, times the number of ranks."""
        check_on_policy(inputs[PLAN], self.state.global_step)
        model.train()
        with self._naming_the_step():
            return run_plan(model, inputs[PLAN], self.parts.run, self.accelerator, self._observe)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Mapping[str, PlannedForward],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None, None]:
        """A forward's validation loss, scaled so that upstream's mean over forwards is Σ/Σ over the whole set."""
        validation = self.get_eval_dataloader()
        with torch.no_grad(), self._naming_the_step():
            output = self.parts.run(model, inputs[FORWARD], validation.normalizers())
        self.window.add(output)
        self.window.count(inputs[FORWARD], None)  # how full rows are is told of training
        return output.total * len(validation) * self.args.world_size, None, None

    def _observe(self, planned: PlannedForward, output: ObjectiveOutput) -> None:
        self.window.add(output)
        self.window.count(planned, self.parts.row_length)

    @contextmanager
    def _naming_the_step(self) -> Iterator[None]:
        try:
            yield
        except ObjectiveError as error:
            raise TrainingError(f"step {self.state.global_step}: {error}") from error

    def time_step(self) -> None:
        """The optimizer step that has just ended, since its data was asked for."""
        self.window.time("time/step_s", self._step_started)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """A checkpoint, whole or not at all: weights, and all that their readers need."""
        folder, step = Path(self.args.output_dir if output_dir is None else output_dir), self.state.global_step
        with saving(folder, step) as partial:
            # DeepSpeed hands over copies, in which tied weights are two. ZeRO-2 keeps parameters whole: the model's do.
            super()._save(str(partial), None)
            complete_checkpoint(partial, Saved(self.model, self.template.processor, folder, step))

    def _save_model(self, output_dir: str, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """An adapter, or a whole model with the coord offsets merged."""
        if coord_offset_of(self.model) is None or isinstance(self.model, PeftModel):
            super()._save_model(output_dir, state_dict)
        else:
            export_merged(self.model, Path(output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: None = None) -> None:
        """Weights alone, where upstream adds its state; then the links, and the older ones go."""
        folder = Path(self.args.output_dir)
        self.state.last_model_checkpoint = str(folder / f"checkpoint-{self.state.global_step}")
        self.save_model(self.state.last_model_checkpoint, _internal_call=True)
        if self.args.should_save:
            keep_checkpoints(folder, self.state, self.args.save_total_limit)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validation loss and components; what training has accumulated since its last log line is kept apart."""
        training, self.window = self.window, WindowMetrics()
        self._evaluation_started = perf_counter()
        try:
            if self.parts.rollouts is not None:
                self.window.merge(self.parts.rollouts.evaluate(self.state.global_step))
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        finally:
            self.window = training
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the window's metrics, reduced over ranks; every rank calls this, so the collective is safe."""
        prefix = "eval_" if any(key.startswith("eval_") for key in logs) else ""
        if prefix:
            self.window.time("time/eval_s", self._evaluation_started)
        reduced = self.window.reduce(self.args.device)
        payload = finite_payload("eval" if prefix else "train", self.state.global_step, reduced)
        logs.update({f"{prefix}{key}": value for key, value in payload["metrics"].items()})
        self.window = WindowMetrics()
        super().log(logs, *args, **kwargs)


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """Where a run left its weights, and what it logged (one mapping per log line)."""

    checkpoint: Path
    log_history: tuple[dict[str, float], ...]


def train_to_end(trainer: CoordTrainer) -> FinishedRun:
    """Train, and write the weights to `<output_dir>/final` on rank 0."""
    try:
        trainer.train()
    finally:
        trainer.parts.release()
    folder = Path(trainer.args.output_dir) / FINAL
    trainer.save_model(str(folder))
    return FinishedRun(folder, tuple(trainer.state.log_history))


def check_on_policy(plan: StepPlan, step: int) -> None:
    """Raise `TrainingError` unless the weights before optimizer step `step` wrote every rollout of its plan."""
    if stale := plan.written_by - {step}:
        raise TrainingError(
            f"step {step}: rollouts of policy version {', '.join(map(str, sorted(stale)))} would be trained on by "
            f"version {step}; every rollout is trained on by the weights that wrote it (AUDIT-8.7)"
        )


class StepTimer(TrainerCallback):  # type: ignore[misc]
    """Times each optimizer step, the wait for its data included."""

    def __init__(self, trainer: CoordTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Runs before the step is logged."""
        self._trainer.time_step()


def _only_plans(items: list[Any]) -> Any:
    raise TrainingError("batches are planned, not collated: upstream built a dataloader of its own")
