"""The training loop of ms-swift and transformers around the project's own batches, forward and objective.

Contract ids: TRAIN-*.

Overridden are the collator, the data order, the denominators of a whole accumulation window, the loss, and what a
checkpoint holds; everything else (optimizer, schedule, precision, DDP, logging back ends) is upstream's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from swift.trainers import Seq2SeqTrainer
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from coordexp.forward.coord_offset import coord_offset_of
from coordexp.forward.coord_offset_files import export_merged, save_coord_offset
from coordexp.forward.head import output_head
from coordexp.forward.teacher import teacher_hidden
from coordexp.losses.normalizers import Normalizers, count_normalizers
from coordexp.losses.objective import Objective, ObjectiveError, ObjectiveOutput
from coordexp.training.callbacks import strip_trainer_files
from coordexp.training.errors import TrainingError
from coordexp.training.metrics import WindowMetrics
from coordexp.training.packs import PackDataset, PackSampler, Shard
from coordexp.training.step import STEP, StepCollator, StepInputs


@dataclass(frozen=True)
class TrainerParts:
    """What the project brings to the loop."""

    objective: Objective
    collator: StepCollator
    coord_ids: tuple[int, ...]
    seed: int


class CoordTrainer(Seq2SeqTrainer):  # type: ignore[misc]
    """Trains on packs with the declared objective.

    A loss is Σ term / Σ count over the whole optimizer step: all micro-batches of the window on all ranks. The counts
    are reduced before the first forward, so how the step is split changes nothing (AUDIT-6.1).
    """

    def __init__(self, *, parts: TrainerParts, **kwargs: Any) -> None:
        self.parts = parts
        self.window = WindowMetrics()
        self._eval_normalizers: Normalizers | None = None
        self._step_started = self._evaluation_started = perf_counter()
        super().__init__(**kwargs)
        self.add_callback(StepTimer(self))

    def _get_data_collator(self, args: Any, template: Any) -> StepCollator:
        return self.parts.collator

    def _prepare_inputs(self, inputs: dict[str, StepInputs]) -> dict[str, StepInputs]:
        return {STEP: inputs[STEP].to(self.args.device)}

    def get_train_dataloader(self, skip_batches: int = 0) -> DataLoader[Any]:
        """This rank's share of the epoch's packs, in the project's order."""
        if skip_batches:
            raise TrainingError(
                "checkpoints hold weights alone, so a run cannot be resumed inside an epoch; "
                "start a new run from the checkpoint's weights (model.model)"
            )
        return self._dataloader(self.train_dataset, self.args.per_device_train_batch_size, shuffle=True)

    def get_eval_dataloader(self, eval_dataset: PackDataset | None = None) -> DataLoader[Any]:
        """This rank's share of the validation packs, in file order."""
        return self._dataloader(eval_dataset or self.eval_dataset, self.args.per_device_eval_batch_size, shuffle=False)

    def _dataloader(self, dataset: PackDataset, per_device: int, *, shuffle: bool) -> DataLoader[Any]:
        shard = Shard(self.args.process_index, self.args.world_size)
        sampler = PackSampler(len(dataset), per_device, seed=self.parts.seed, shard=shard, shuffle=shuffle)
        workers = self.args.dataloader_num_workers
        loader: DataLoader[Any] = EpochDataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=self.parts.collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=bool(workers) and self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
        )
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, StepInputs]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, StepInputs]], Normalizers | None]:
        """The window's micro-batches and, in the place of upstream's item count, the step's global normalizers."""
        self._step_started = perf_counter()
        batches = list(islice(epoch_iterator, num_batches))
        if batches:
            self.window.time("time/data_s", self._step_started)
        return batches, self._reduced(batches, device) if batches else None

    def _reduced(self, batches: list[dict[str, StepInputs]], device: torch.device) -> Normalizers:
        counts = sum(
            (count_normalizers(inputs[STEP].context).to_tensor() for inputs in batches),
            start=torch.zeros_like(count_normalizers(batches[0][STEP].context).to_tensor()),
        ).to(device)
        if dist.is_initialized():
            dist.all_reduce(counts)
        return Normalizers.from_tensor(counts)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, StepInputs],
        return_outputs: bool = False,
        num_items_in_batch: Normalizers | None = None,
    ) -> torch.Tensor:
        """One micro-batch's share of the step's loss, times the number of ranks because DDP averages over them."""
        if num_items_in_batch is None:
            raise TrainingError(
                "the step's normalizers are missing: get_batch_samples was not called for this micro-batch"
            )
        output = self._objective(model, inputs[STEP], num_items_in_batch)
        self._observe(inputs[STEP], output, self.train_dataset)
        return output.total * self.args.world_size

    def time_step(self) -> None:
        """The optimizer step that has just ended, since its data was asked for."""
        self.window.time("time/step_s", self._step_started)

    def _observe(self, step: StepInputs, output: ObjectiveOutput, dataset: PackDataset) -> None:
        self.window.add(output)
        self.window.count(step, dataset.row_length if self.parts.collator.pad_id is None else None)

    def _objective(self, model: nn.Module, step: StepInputs, normalizers: Normalizers) -> ObjectiveOutput:
        hidden = teacher_hidden(model, step.batch)
        head = output_head(model, self.parts.coord_ids)
        try:
            return self.parts.objective(step.context, hidden, head, normalizers)
        except ObjectiveError as error:
            raise TrainingError(f"step {self.state.global_step}: {error}") from error

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, StepInputs],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None, None]:
        """A micro-batch's validation loss, scaled so that upstream's mean over batches is Σ/Σ over the whole set."""
        normalizers = self._validation_normalizers()
        step = self._prepare_inputs(inputs)[STEP]
        with torch.no_grad():
            output = self._objective(model, step, normalizers)
        self._observe(step, output, self.eval_dataset)
        return output.total * len(self.get_eval_dataloader()) * self.args.world_size, None, None

    def _validation_normalizers(self) -> Normalizers:
        if self._eval_normalizers is None:
            batches = list(self.get_eval_dataloader())
            self._eval_normalizers = self._reduced(batches, self.args.device)
        return self._eval_normalizers

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Weights, configuration and processor; coord offsets beside a PEFT adapter, merged into a whole model."""
        super()._save(output_dir, state_dict)
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        if coord_offset_of(self.model) is not None:
            save_coord_offset(self.model, folder)
            if not isinstance(self.model, PeftModel):
                export_merged(self.model, folder)
        strip_trainer_files(folder)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validation loss and components; what training has accumulated since its last log line is kept apart."""
        training, self.window = self.window, WindowMetrics()
        self._evaluation_started = perf_counter()
        try:
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        finally:
            self.window = training
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the window's components, reduced over ranks; every rank calls this, so the collective is safe."""
        prefix = "eval_" if any(key.startswith("eval_") for key in logs) else ""
        if "grad_norm" in logs:
            logs["optim/grad_norm"] = float(logs["grad_norm"])
        if prefix:
            self.window.time("time/eval_s", self._evaluation_started)
        logs.update({f"{prefix}{key}": value for key, value in self.window.reduce(self.args.device).items()})
        self.window = WindowMetrics()
        super().log(logs, *args, **kwargs)


class StepTimer(TrainerCallback):  # type: ignore[misc]
    """Times each optimizer step, the wait for its data included."""

    def __init__(self, trainer: CoordTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Runs before the step is logged."""
        self._trainer.time_step()


class EpochDataLoader(DataLoader[Any]):
    """A dataloader whose order follows the trainer's epoch."""

    def set_epoch(self, epoch: int) -> None:
        sampler = self.batch_sampler
        if isinstance(sampler, PackSampler):
            sampler.set_epoch(epoch)
