"""Which units (packs, or records) an optimizer step draws, and who of the ranks takes which. TRAIN-001.

Everything is a function of `training.seed`, the epoch and the number of units: step s of an epoch sees the same units
whatever the number of ranks, because ranks take turns within one global order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from coordexp.data.seeds import derive_seed
from coordexp.training.types import Shard

Unit = TypeVar("Unit")


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation of `count` units that `training.seed` and the epoch alone decide."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "epoch_order", epoch))
    return torch.randperm(count, generator=generator).tolist()


def split_steps(units: Sequence[Unit], per_step: int) -> list[Sequence[Unit]]:
    """The units of each optimizer step in turn; the last step takes what is left, and nothing is dropped."""
    return [units[start : start + per_step] for start in range(0, len(units), per_step)]


def share_of_step(units: Sequence[Unit], per_forward: int, shard: Shard) -> list[Sequence[Unit]]:
    """This rank's forwards among those of a step: ranks take groups of `per_forward` units in turn.

    Ranks differ by at most one forward, and may have none.
    """
    return split_steps(units, per_forward)[shard.rank :: shard.world_size]


def part_of_step(units: Sequence[Unit], shard: Shard) -> tuple[int, Sequence[Unit]]:
    """This rank's units of a step as one piece in the step's order, and the place of the first among all of them.

    Ranks differ by at most one unit, and may have none.
    """
    first, end = (len(units) * rank // shard.world_size for rank in (shard.rank, shard.rank + 1))
    return first, units[first:end]
