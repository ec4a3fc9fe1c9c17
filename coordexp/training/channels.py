"""Records of a step in, its plan out, by the channel of the step. Contract ids: TRAIN-036, TRAIN-037.

Both channels take the same records of the same order (`record_steps`); what differs is what their answers come from.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.training.forwards import agree, pack_step
from coordexp.training.types import StepKind, StepPlan

if TYPE_CHECKING:
    import torch

    from coordexp.training.forwards import ForwardBuilder, RowLimits
    from coordexp.training.record_steps import MakePlan
    from coordexp.training.schedule import Schedule
    from coordexp.training.types import StepRecords

REALIZED = "stage2_ab/b_ratio_realized"


@dataclass(frozen=True, eq=False)
class ChannelA:
    """Makes plans over ground truth. `builder` gives each forward the anchor's context and the self context."""

    builder: ForwardBuilder
    rows: RowLimits
    device: torch.device

    def plan(self, records: StepRecords) -> StepPlan:
        """This rank's records with their own answers, packed; every rank calls it once a step, with or without any."""
        samples = [self.builder.encoder.sample(item.record, item.prompt) for item in records.prepared]
        forwards = pack_step(self.builder, samples, [item.image for item in records.prepared], self.rows)
        return agree(StepKind.A, forwards, self.builder.filler, self.device)


class TwoChannels:
    """Makes every step's plan by the channel that `schedule` gives it.

    Nothing falls back: what one channel raises ends the run, so the realized share of B is the schedule's own.
    """

    def __init__(self, schedule: Schedule, a: MakePlan, b: MakePlan) -> None:
        self.schedule, self.a, self.b = schedule, a, b
        self._steps = self._b_steps = 0

    def plan(self, records: StepRecords) -> StepPlan:
        """The plan of a step, with the share of B among the steps planned so far, this one among them."""
        kind = self.schedule.channel(records.step)
        planned = (self.b if kind is StepKind.B else self.a)(records)
        self._steps, self._b_steps = self._steps + 1, self._b_steps + (kind is StepKind.B)
        return dataclasses.replace(planned, observed={**planned.observed, REALIZED: (self._b_steps, self._steps)})
