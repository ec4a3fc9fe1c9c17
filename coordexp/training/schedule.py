"""Optimizer step in, its channel out: the one router of two-channel training. Contract ids: TRAIN-037.

A pure function of the step and `stage2_ab.schedule.b_ratio`, so every rank and every run of a configuration agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from coordexp.training.types import StepKind

LARGEST_DENOMINATOR = 10**6


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps of Channel B spread evenly among those of Channel A: of the first n steps, ⌊n·b_ratio⌋ are B."""

    b_ratio: Fraction

    @classmethod
    def of(cls, b_ratio: float) -> Schedule:
        """The schedule of the simple fraction nearest to what the configuration writes: .3 is 3/10.

        A float's own value is no such fraction: with .7 it would move step 89, with .58 step 49.
        """
        return cls(Fraction(repr(b_ratio)).limit_denominator(LARGEST_DENOMINATOR))

    def channel(self, step: int) -> StepKind:
        """The channel of optimizer step `step`, from 0: B where ⌊(step + 1)·b_ratio⌋ > ⌊step·b_ratio⌋."""
        return StepKind.B if self.b_steps(step + 1) > self.b_steps(step) else StepKind.A

    def b_steps(self, steps: int) -> int:
        """How many of the first `steps` steps are B."""
        return steps * self.b_ratio.numerator // self.b_ratio.denominator
