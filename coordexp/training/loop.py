"""Runs any plan: forwards, losses, backward; it knows no variant. Contract ids: TRAIN-002, TRAIN-004, TRAIN-016.

A loss is Σ term / Σ count over the whole optimizer step, all forwards on all ranks. The counts are in the plan before
its first forward, so how a step is split changes nothing (AUDIT-6.1).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coordexp.forward.head import OutputHead, output_head
from coordexp.forward.teacher import teacher_forward
from coordexp.losses.vocab import VocabularyOutput, VocabularyRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator
    from torch import nn

    from coordexp.encode.encoder import Encoder
    from coordexp.losses.normalizers import Normalizers
    from coordexp.losses.objective import Objective, ObjectiveOutput
    from coordexp.packing.types import PackedBatch
    from coordexp.training.types import Placement, PlannedForward, StepPlan

    Observe = Callable[[PlannedForward, ObjectiveOutput], None]


@dataclass(frozen=True, eq=False)
class ForwardRunner:
    """Makes a planned forward's pixels, runs it, and computes its losses; a run has one for training and validation."""

    encoder: Encoder
    objective: Objective
    coord_ids: tuple[int, ...]
    placement: Placement

    def __call__(self, model: nn.Module, planned: PlannedForward, normalizers: Normalizers) -> ObjectiveOutput:
        """The objective of one forward of `model`, however wrapped."""
        batch = self.place(planned)
        context = planned.context.to(self.placement.device)
        head: OutputHead = output_head(model, self.coord_ids)

        def score(request: VocabularyRequest) -> VocabularyOutput:
            return VocabularyOutput(*teacher_forward(model, batch, head, request))

        return self.objective(context, score, normalizers)

    def place(self, planned: PlannedForward) -> PackedBatch:
        """The forward's batch on its device, with its pixels."""
        device, batch = self.placement.device, planned.batch
        pixels = self.encoder.pixels(planned.samples, planned.images, device) if planned.images else None
        batch = batch.pin_memory() if self.placement.pin_memory else batch
        return batch.to(device, non_blocking=True).with_pixels(pixels)


def run_plan(
    model: nn.Module, plan: StepPlan, run: ForwardRunner, accelerator: Accelerator, observe: Observe
) -> torch.Tensor:
    """Forward and backward of every forward of `plan`, without an update; the sum of their losses, 0-d, detached.

    Losses are multiplied by the number of ranks, over which gradients are averaged. Gradients are synchronized in the
    last backward alone.
    """
    total = torch.zeros((), device=run.placement.device)
    for number, planned in enumerate(plan.forwards, 1):
        last = number == len(plan.forwards)
        accelerator.sync_gradients = last
        with nullcontext() if last else accelerator.no_sync(model):
            output = run(model, planned, plan.normalizers)
            loss = output.total * accelerator.num_processes
            accelerator.backward(loss)
        observe(planned, output)
        total += loss.detach()
    return total
