"""Which sample comes when, and on which rank: the same order for any number of ranks and workers.

Contract ids: DATA-019.
Enters: how many samples (or packs) there are, `training.seed`, the epoch. Leaves: indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from coordexp.data.seeds import build_generator

if TYPE_CHECKING:
    from collections.abc import Iterator

Indices = NDArray[np.int64]
Tail = Literal["pad", "drop"]


def epoch_order(count: int, seed: int, epoch: int) -> Indices:
    """A permutation of `count` indices that follows from (`training.seed`, epoch) alone."""
    return np.asarray(build_generator(seed, "epoch_order", epoch).permutation(count), dtype=np.int64)


def rank_share(order: Indices, rank: int, world_size: int, tail: Tail) -> Indices:
    """Rank `rank`'s part: every `world_size`-th index, so that interleaving all parts gives `order` back.

    When `world_size` does not divide the order, `drop` leaves its last indices out and `pad` repeats it from its
    start; all ranks get equally many. Raises `ValueError` for a rank outside 0..world_size−1 or an unknown tail.
    """
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size} ranks: ranks are 0..world_size-1")
    rest = len(order) % world_size
    if tail == "drop":
        whole = order[: len(order) - rest]
    elif tail == "pad":
        missing = (world_size - rest) % world_size
        whole = np.concatenate([order, np.resize(order, missing)]) if missing and len(order) else order
    else:
        raise ValueError(f"tail is 'pad' or 'drop', got {tail!r}")
    return whole[rank::world_size]


@dataclass(slots=True)
class EpochSampler:
    """A sampler for a data loader: iterating gives this rank's indices of the current epoch; `set_epoch` moves on."""

    count: int
    seed: int
    rank: int = 0
    world_size: int = 1
    tail: Tail = "pad"
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self.count, self.seed, self.epoch)
        return iter(rank_share(order, self.rank, self.world_size, self.tail).tolist())

    def __len__(self) -> int:
        full, rest = divmod(self.count, self.world_size)
        return full + (1 if rest and self.tail == "pad" else 0)
