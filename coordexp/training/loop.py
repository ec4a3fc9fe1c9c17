"""Runs any plan: forwards, losses, backward; it knows no variant. TRAIN-002, TRAIN-004, TRAIN-016, TRAIN-036.

A loss is Σ term / Σ count over the whole optimizer step, all forwards on all ranks. The counts are in the plan before
its first forward, so how a step is split changes nothing (AUDIT-6.1).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import TYPE_CHECKING, Protocol

import torch

from coordexp.forward.head import output_head
from coordexp.forward.self_context import SlotFeed
from coordexp.forward.teacher import teacher_forward
from coordexp.forward.unwrap import unwrap_model
from coordexp.losses.vocab import OUTPUT_FIELDS, VocabularyOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from accelerate import Accelerator
    from torch import nn

    from coordexp.encode.encoder import Encoder
    from coordexp.forward.head import Computation
    from coordexp.forward.self_context import SelfContext
    from coordexp.losses.normalizers import Normalizers
    from coordexp.losses.objective import Objective, ObjectiveOutput, Prepared
    from coordexp.packing.types import PackedBatch
    from coordexp.training.types import Placement, PlannedForward, StepPlan

    Observe = Callable[[PlannedForward, ObjectiveOutput], None]


class RunForward(Protocol):
    """A teacher forward of one batch of a model."""

    def __call__(
        self, computation: Computation, inputs_embeds: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]: ...


@dataclass(frozen=True, eq=False)
class ForwardRunner:
    """Makes a planned forward's pixels, runs it, and computes its losses; a run has one for training and validation.

    `self_context` says how a forward of Channel A runs: as several, of which the last is asked for coordinates.
    """

    encoder: Encoder
    objective: Objective
    coord_ids: tuple[int, ...]
    placement: Placement
    self_context: SelfContext

    def __call__(self, model: nn.Module, planned: PlannedForward, normalizers: Normalizers) -> ObjectiveOutput:
        """The objective of one forward of `model`, however wrapped."""
        batch, head = self.place(planned), output_head(model, self.coord_ids)
        run = partial(teacher_forward, model, batch, head)
        asked = [self.objective.prepare(context.to(self.placement.device), normalizers) for context in planned.contexts]
        if len(asked) == 1 or self.self_context.iterations == 1:
            return ask_together(run, asked)
        feed = SlotFeed(
            embedding=unwrap_model(model).get_input_embeddings(),
            coord_ids=head.coord_ids,
            slots=asked[0].request.slots + 1,
            mix=self.objective.embed,
            settings=self.self_context,
        )
        return iterate(run, partial(feed, batch.input_ids), asked, self.self_context)

    def place(self, planned: PlannedForward) -> PackedBatch:
        """The forward's batch on its device, with its pixels."""
        device, batch = self.placement.device, planned.batch
        pixels = self.encoder.pixels(planned.samples, planned.images, device) if planned.images else None
        batch = batch.pin_memory() if self.placement.pin_memory else batch
        return batch.to(device, non_blocking=True).with_pixels(pixels)


def ask_together(run: RunForward, asked: Sequence[Prepared]) -> ObjectiveOutput:
    """The objectives of all contexts from one forward."""
    computed = run(lambda hidden, head: tuple(value for one in asked for value in one.request(hidden, head)))
    parts = zip(*[iter(computed)] * len(OUTPUT_FIELDS), strict=True)
    return reduce(add, (one.finish(VocabularyOutput(*part)) for one, part in zip(asked, parts, strict=True)))


def iterate(
    run: RunForward, feed: Callable[[torch.Tensor], torch.Tensor], asked: Sequence[Prepared], settings: SelfContext
) -> ObjectiveOutput:
    """The objectives of Channel A's two contexts from `settings.iterations` forwards: the anchor's from forward 0,
    which reads ground truth, the other's from the last. `feed` embeds what the coord logits of the forward before say.
    """
    anchor, last = asked
    first = scored = VocabularyOutput(*run(anchor.request))
    for number in range(1, settings.iterations):
        request = last.request if number == settings.iterations - 1 else last.request.slots_alone()
        with torch.set_grad_enabled(torch.is_grad_enabled() and settings.learns(number)):
            scored = VocabularyOutput(*run(request, inputs_embeds=feed(scored.coord_logits)))
    return anchor.finish(first) + last.finish(scored)


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
