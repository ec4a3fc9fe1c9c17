"""Which channel takes a step: exact over long horizons, and never anything but what the schedule says."""

from __future__ import annotations

import math
from decimal import Context, Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coordexp.losses.normalizers import Normalizers
from coordexp.metrics.accumulator import MetricAccumulator
from coordexp.training.channels import REALIZED, TwoChannels
from coordexp.training.schedule import Schedule
from coordexp.training.types import StepKind, StepPlan, StepRecords

EXACT = Context(prec=60)
DECIMALS = st.integers(0, 6).flatmap(
    lambda digits: st.integers(0, 10**digits).map(lambda units: Decimal(units).scaleb(-digits))
)


def b_before(step: int, ratio: Decimal) -> int:
    """How many of the first `step` steps are B, in decimal arithmetic."""
    return int(EXACT.multiply(Decimal(step), ratio))


@pytest.mark.invariant("TRAIN-037")
@given(ratio=DECIMALS, step=st.integers(0, 10**7))
def test_the_schedule_is_exact_for_any_decimal(ratio: Decimal, step: int) -> None:
    schedule = Schedule.of(float(ratio))
    assert schedule.b_steps(step) == b_before(step, ratio)
    wanted = b_before(step + 1, ratio) > b_before(step, ratio)
    assert (schedule.channel(step) is StepKind.B) == wanted


@pytest.mark.invariant("TRAIN-037")
@pytest.mark.parametrize("written", ["0.7", "0.58", "0.05", "0.3", "0.999999", "0.000001", "0.85"])
def test_runs_of_steps_are_exact_far_from_the_start(written: str) -> None:
    schedule, ratio = Schedule.of(float(written)), Decimal(written)
    for start in (0, 10**6 - 7, 10**7 - 5000):
        found = [schedule.channel(step) is StepKind.B for step in range(start, start + 5000)]
        counts = [b_before(step, ratio) for step in range(start, start + 5001)]
        assert found == [later > earlier for earlier, later in pairwise(counts)]
    drawn = sum(schedule.channel(step) is StepKind.B for step in range(2000))
    assert drawn == b_before(2000, ratio)


@pytest.mark.invariant("TRAIN-037")
@pytest.mark.parametrize(("ratio", "step"), [(0.7, 89), (0.58, 49)])
def test_a_floats_own_value_would_move_a_step(ratio: float, step: int) -> None:
    naive = math.floor((step + 1) * ratio) > math.floor(step * ratio)
    assert (Schedule.of(ratio).channel(step) is StepKind.B) != naive


@pytest.mark.invariant("TRAIN-037")
def test_a_ratio_is_the_simple_fraction_that_was_written() -> None:
    written = {0.3: "3/10", 0.3333333333: "1/3", 0.05: "1/20", 1.0: "1", 0.0: "0", 1e-06: "1/1000000"}
    assert {ratio: Schedule.of(ratio).b_ratio for ratio in written} == {k: Fraction(v) for k, v in written.items()}
    assert {Schedule.of(1.0).channel(step) for step in range(9)} == {StepKind.B}
    assert {Schedule.of(0.0).channel(step) for step in range(9)} == {StepKind.A}


class Recorder:
    """Makes empty plans of a kind and notes the steps; fails at `fails`."""

    def __init__(self, kind: StepKind, fails: int | None = None) -> None:
        self.kind, self.fails, self.steps = kind, fails, list[int]()

    def plan(self, records: StepRecords) -> StepPlan:
        if records.step == self.fails:
            raise RuntimeError("no answer came back")
        self.steps.append(records.step)
        return StepPlan(self.kind, (), Normalizers(torch.zeros(1)), observed={"rollout/samples_total": (1.0, 0.0)})


@pytest.mark.invariant("TRAIN-037")
@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.3, 0.7, 1.0])
def test_every_step_is_made_by_its_channel_and_the_realized_share_is_told(ratio: float) -> None:
    a, b = Recorder(StepKind.A), Recorder(StepKind.B)
    channels = TwoChannels(Schedule.of(ratio), a.plan, b.plan)
    window = MetricAccumulator()
    for step in range(120):
        plan = channels.plan(StepRecords(step, 0, ()))
        assert plan.kind is channels.schedule.channel(step)
        assert plan.observed["rollout/samples_total"] == (1.0, 0.0), "what the channel has measured is kept"
        window.merge(plan.observed)
        realized = window.result()[REALIZED]
        assert realized == pytest.approx(len(b.steps) / (step + 1))
        assert abs(realized - ratio) <= 1 / (step + 1), "the last of a window's steps, whatever it held before"
    assert sorted(a.steps + b.steps) == list(range(120)) and len(b.steps) == math.floor(Fraction(str(ratio)) * 120)


@pytest.mark.invariant("TRAIN-037")
def test_nothing_falls_back_from_one_channel_to_the_other() -> None:
    a, b = Recorder(StepKind.A), Recorder(StepKind.B, fails=1)
    channels = TwoChannels(Schedule.of(0.5), a.plan, b.plan)
    channels.plan(StepRecords(0, 0, ()))
    with pytest.raises(RuntimeError, match="no answer came back"):
        channels.plan(StepRecords(1, 0, ()))
    assert a.steps == [0] and b.steps == []


@pytest.mark.invariant("TRAIN-037")
def test_ranks_agree_on_the_latest_share() -> None:
    states = [{REALIZED: (1.0, 4.0)}, {REALIZED: (1.0, 4.0)}]
    total = MetricAccumulator()
    for state in (*states, {REALIZED: (0.0, 3.0)}):
        total.merge(state)
    assert total.result() == {REALIZED: 0.25}
