"""Which records a step of stage 2 draws, and which of them a rank rolls out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coordexp.losses.normalizers import Normalizers
from coordexp.training.order import epoch_order, part_of_step
from coordexp.training.record_steps import RecordPlans
from coordexp.training.types import PLAN, Shard, StepKind, StepPlan, StepRecords


class Numbers:
    """A stream whose records are their own indices."""

    def __init__(self, count: int) -> None:
        self.records: Any = range(count)

    def read(self, indices: Sequence[int]) -> Iterator[Any]:
        return iter(indices)


def epoch(count: int, per_step: int, shard: Shard, number: int = 0, first: int = 0) -> list[StepRecords]:
    """What the steps of an epoch are given on one rank; the epoch's first step is the run's step `first`."""
    made: list[StepRecords] = []

    def make(records: StepRecords) -> StepPlan:
        made.append(records)
        return StepPlan(StepKind.B, (), Normalizers(torch.zeros(1)))

    plans = RecordPlans(Numbers(count), per_step, shard, 17, make)  # type: ignore[arg-type]
    plans.set_epoch(number)
    given = iter(plans)
    for step in range(len(plans)):
        plans.begin_step(first + step)
        assert next(given)[PLAN].kind is StepKind.B
    assert next(given, None) is None
    return made


@pytest.mark.invariant("TRAIN-029")
@given(count=st.integers(1, 40), per_step=st.integers(1, 9), world=st.integers(1, 4), number=st.integers(0, 3))
def test_every_record_is_drawn_once_an_epoch_whatever_the_ranks(
    count: int, per_step: int, world: int, number: int
) -> None:
    ranks = [epoch(count, per_step, Shard(rank, world), number, first=5) for rank in range(world)]
    order = epoch_order(count, 17, number)
    for step, parts in enumerate(zip(*ranks, strict=True)):
        drawn = [index for part in parts for index in part.prepared]
        assert drawn == order[step * per_step : (step + 1) * per_step], "a step's records, in the epoch's order"
        sizes = [len(part.prepared) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert [part.first for part in parts] == [sum(sizes[:rank]) for rank in range(world)]
        assert {part.step for part in parts} == {5 + step}


@pytest.mark.invariant("TRAIN-029")
def test_epochs_differ_and_a_seed_repeats() -> None:
    drawn = [[r.prepared for r in epoch(12, 4, Shard(0, 1), number)] for number in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.invariant("TRAIN-029")
def test_a_rank_may_have_no_record_of_a_step() -> None:
    assert [part_of_step([7], Shard(rank, 3)) for rank in range(3)] == [(0, []), (0, []), (0, [7])]
