"""Which units an optimizer step draws, whatever the number of ranks."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.training.order import epoch_order, share_of_step, split_steps
from coordexp.training.types import Shard


def shares(count: int, per_step: int, per_forward: int, world: int, seed: int = 5, epoch: int = 0):
    """Units by step, by rank, by forward."""
    steps = split_steps(epoch_order(count, seed, epoch), per_step)
    return [[share_of_step(units, per_forward, Shard(rank, world)) for rank in range(world)] for units in steps]


def units_of(step) -> list[int]:
    return sorted(chain.from_iterable(chain.from_iterable(step)))


@pytest.mark.invariant("TRAIN-001")
@given(count=st.integers(1, 60), per_forward=st.integers(1, 3), accumulation=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_step_holds_the_same_units_on_one_rank_and_on_two(
    count: int, per_forward: int, accumulation: int, seed: int
) -> None:
    per_step = 2 * per_forward * accumulation
    alone, shared = (shares(count, per_step, per_forward, world, seed) for world in (1, 2))
    assert [units_of(step) for step in shared] == [units_of(step) for step in alone]
    forwards = [sorted(map(list, chain.from_iterable(step))) for step in shared]
    assert forwards == [sorted(map(list, chain.from_iterable(step))) for step in alone]


@pytest.mark.invariant("TRAIN-001")
@given(count=st.integers(1, 60), per_step=st.integers(1, 9), per_forward=st.integers(1, 3), world=st.integers(1, 4))
def test_every_unit_is_drawn_once_an_epoch_the_last_one_too(
    count: int, per_step: int, per_forward: int, world: int
) -> None:
    steps = shares(count, per_step, per_forward, world)
    assert sorted(chain.from_iterable(units_of(step) for step in steps)) == list(range(count))
    assert all(len(units_of(step)) == per_step for step in steps[:-1]) and units_of(steps[-1])
    for step in steps:
        assert max(map(len, step)) - min(map(len, step)) <= 1, "ranks differ by at most one forward"
        assert all(len(forward) <= per_forward for rank in step for forward in rank)


@pytest.mark.invariant("TRAIN-001")
def test_the_order_follows_the_seed_and_the_epoch() -> None:
    first = epoch_order(30, 1, 0)
    assert epoch_order(30, 1, 0) == first and sorted(first) == list(range(30))
    assert epoch_order(30, 2, 0) != first
    assert epoch_order(30, 1, 1) != first
    assert epoch_order(30, 1, 0)[:10] != epoch_order(10, 1, 0)
