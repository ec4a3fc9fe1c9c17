"""Records in, `effective_batch_size` of them an optimizer step out, whichever channel takes the step. TRAIN-029.

Every record is drawn once an epoch, in an order that the seed and the epoch decide; the kind of a step plays no part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from coordexp.training.order import epoch_order, part_of_step, split_steps
from coordexp.training.types import PLAN, Shard, StepPlan, StepRecords

if TYPE_CHECKING:
    from coordexp.training.stream import RecordStream

MakePlan = Callable[[StepRecords], StepPlan]


class RecordPlans:
    """One plan an optimizer step, made by `make` from the step's records; what transformers' Trainer takes for its
    dataloader.
    """

    def __init__(self, stream: RecordStream, per_step: int, shard: Shard, seed: int, make: MakePlan) -> None:
        self.stream, self.dataset, self.per_step, self.make = stream, stream.records, per_step, make
        self._shard, self._seed = shard, seed
        self._epoch = self._step = 0

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.per_step)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self._epoch = epoch

    def begin_step(self, step: int) -> None:
        """Say which optimizer step of the run, from 0, the next plan is for."""
        self._step = step

    def parts(self) -> list[tuple[int, Sequence[int]]]:
        """This rank's records of the epoch by step, each with the place of the first among all of the step's."""
        order = epoch_order(len(self.dataset), self._seed, self._epoch)
        return [part_of_step(units, self._shard) for units in split_steps(order, self.per_step)]

    def __iter__(self) -> Iterator[dict[str, StepPlan]]:
        parts = self.parts()
        prepared = self.stream.read(list(chain.from_iterable(indices for _, indices in parts)))
        for first, indices in parts:
            yield {PLAN: self.make(StepRecords(self._step, first, tuple(next(prepared) for _ in indices)))}
