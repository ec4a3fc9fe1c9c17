"""What an optimizer step is made of: a plan of forwards. Contract ids: TRAIN-016, TRAIN-017.

A variant makes plans, `training.loop` runs them; neither knows the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from coordexp.encode.encoder import PreparedRecord
    from coordexp.encode.types import EncodedSample
    from coordexp.losses.context import TeacherForcingContext
    from coordexp.losses.normalizers import Normalizers
    from coordexp.packing.types import PackedBatch

PLAN = "plan"
"""Key under which a `StepPlan` travels in the mapping that transformers' Trainer hands around."""
FORWARD = "forward"
"""The same for a `PlannedForward` of an evaluation."""


class StepKind(StrEnum):
    """What a step trains on: ground truth alone, Channel A, or rollouts (Channel B)."""

    GT = "gt"
    A = "A"
    B = "B"


@dataclass(frozen=True, eq=False)
class PlannedForward:
    """One forward: its tokens, the images that its pixels will be made from, and what it is asked to predict.

    `batch` has no pixels yet: a pack of 10,000 vision tokens is 250 MB of them. `images` follow `samples`. `n_packs`
    rows of the packing plan lie in it; 0 for a filler, which runs where another rank has a forward more. With
    `self_context` it is Channel A's: `context` is asked of forward 0, `self_context` of the last one.
    """

    samples: tuple[EncodedSample, ...]
    images: tuple[Image.Image, ...]
    batch: PackedBatch
    context: TeacherForcingContext
    n_packs: int = 1
    self_context: TeacherForcingContext | None = None

    @property
    def contexts(self) -> tuple[TeacherForcingContext, ...]:
        """All that the forward is asked to predict."""
        return (self.context,) if self.self_context is None else (self.context, self.self_context)

    @property
    def is_filler(self) -> bool:
        """Whether it only takes part in collectives."""
        return self.n_packs == 0


@dataclass(frozen=True, eq=False)
class StepPlan:
    """This rank's forwards of one optimizer step. `normalizers` count what the step holds on all ranks; every rank has
    equally many forwards.

    `written_by` are the versions of the weights that wrote the step's rollouts; `observed` is what making the plan has
    measured, by metric key (`coordexp.metrics.accumulator.State`).
    """

    kind: StepKind
    forwards: tuple[PlannedForward, ...]
    normalizers: Normalizers
    written_by: frozenset[int] = frozenset()
    observed: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class StepRecords:
    """This rank's records of optimizer step `step` (from 0); the first of them is at `first` among all of the step's,
    which are in one order over all ranks.
    """

    step: int
    first: int
    prepared: tuple[PreparedRecord, ...]


class Plans(Protocol):
    """The plans of an epoch, in the place of a dataloader."""

    def __len__(self) -> int:
        """Optimizer steps of an epoch."""
        ...

    def __iter__(self) -> Iterator[dict[str, StepPlan]]:
        """The epoch's plans in turn, each made when it is asked for."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        ...

    def begin_step(self, step: int) -> None:
        """Say which optimizer step of the run, from 0, the next plan is for."""
        ...


@dataclass(frozen=True, slots=True)
class Shard:
    """This process's place among the data-parallel ranks."""

    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """How records are read ahead (`data.dataloader_*`): worker processes, and records that each keeps ready."""

    num_workers: int = 0
    prefetch_factor: int | None = None
    persistent_workers: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """Where forwards run, and whether their tokens go there from page-locked memory."""

    device: torch.device
    pin_memory: bool = False
