"""Which packs an optimizer step sees, whatever the number of ranks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.training.packs import PackRef, PackSampler, Shard


def rank_batches(n_packs: int, per_device: int, world: int, seed: int = 5, epoch: int = 0) -> list[list[list[PackRef]]]:
    ranks = []
    for rank in range(world):
        sampler = PackSampler(n_packs, per_device, seed=seed, shard=Shard(rank, world))
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
    return ranks


def windows(ranks: list[list[list[PackRef]]], accumulation: int) -> list[list[int]]:
    """Supervised pack indices of each optimizer step, sorted."""
    steps = []
    for start in range(0, len(ranks[0]), accumulation):
        refs = [ref for rank in ranks for batch in rank[start : start + accumulation] for ref in batch]
        steps.append(sorted(ref.index for ref in refs if ref.supervised))
    return steps


@pytest.mark.invariant("TRAIN-001")
@given(
    n_packs=st.integers(1, 40), per_device=st.integers(1, 3), accumulation=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_a_step_holds_the_same_packs_on_one_rank_and_on_two(
    n_packs: int, per_device: int, accumulation: int, seed: int
) -> None:
    alone = windows(rank_batches(n_packs, per_device, 1, seed), 2 * accumulation)
    shared = windows(rank_batches(n_packs, per_device, 2, seed), accumulation)
    assert shared == alone


@pytest.mark.invariant("TRAIN-001")
@given(n_packs=st.integers(1, 40), per_device=st.integers(1, 3), world=st.integers(1, 4))
def test_every_pack_is_seen_once_an_epoch_and_ranks_have_equally_many_batches(
    n_packs: int, per_device: int, world: int
) -> None:
    ranks = rank_batches(n_packs, per_device, world)
    seen = sorted(ref.index for rank in ranks for batch in rank for ref in batch if ref.supervised)
    assert seen == list(range(n_packs))
    assert {len(rank) for rank in ranks} == {len(PackSampler(n_packs, per_device, seed=5, shard=Shard(0, world)))}


@pytest.mark.invariant("TRAIN-001")
def test_the_order_follows_the_seed_and_the_epoch() -> None:
    first = rank_batches(30, 1, 1, seed=1)
    assert rank_batches(30, 1, 1, seed=1) == first
    assert rank_batches(30, 1, 1, seed=2) != first
    assert rank_batches(30, 1, 1, seed=1, epoch=1) != first


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        PackSampler(0, 1, seed=1)
