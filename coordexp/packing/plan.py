"""Sample lengths in, a static packing plan out: who shares a row of at most `cap` tokens. PACK-001..PACK-004.

A plan is a function of the lengths alone: no seed, no hash order. Three strategies are laid out and the one with the
fewest packs is kept, so a plan is never longer than filling rows in dataset order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# A pair that fills a row exactly is nearly always among the first few; the bound keeps the search linear in the rows.
PAIR_SEARCH = 64
# Rows are opened with average lengths and closed with a searched pair: with less room than this many averages.
PAIR_ROOM = 2.6


@dataclass(frozen=True, slots=True)
class PackPlan:
    """`packs[r]` are the dataset indices that share row r, ascending; rows are ordered by their first index.

    `fill` is tokens over `cap` × rows (1.0 for a plan without rows).
    """

    packs: tuple[tuple[int, ...], ...]
    fill: float
    cap: int


class OversizeSample(ValueError):
    """A sample is longer than a row may be, and samples are never split."""


def build_plan(lengths: Sequence[int], cap: int) -> PackPlan:
    """Lay samples of `lengths` tokens into rows of at most `cap` tokens (AUDIT-5.1).

    Every index appears exactly once. Raises OversizeSample for a length above `cap`, ValueError for a length or cap
    below 1.
    """
    check_lengths(lengths, cap)
    candidates = (mix_lengths(lengths, cap), best_fit_decreasing(lengths, cap), first_in_first_out(lengths, cap))
    rows = min(candidates, key=len)
    packs = tuple(sorted(assign_indices(rows, lengths)))
    return PackPlan(packs, sum(lengths) / (cap * len(packs)) if packs else 1.0, cap)


def check_lengths(lengths: Sequence[int], cap: int) -> Sequence[int]:
    """Return `lengths`, or raise with the index of the first one that cannot be packed."""
    if cap < 1:
        raise ValueError(f"packing cap is {cap} tokens; it must be at least 1 (global_max_length)")
    for index, length in enumerate(lengths):
        if length < 1:
            raise ValueError(f"sample {index} has {length} tokens; every sample needs at least 1")
        if length > cap:
            raise OversizeSample(
                f"sample {index} has {length} tokens and the cap is {cap}: samples are never split. "
                f"Raise global_max_length, shorten the answer, or cook the image smaller"
            )
    return lengths


def first_in_first_out(lengths: Sequence[int], cap: int) -> list[list[int]]:
    """Rows filled in dataset order, a new one whenever the next sample does not fit: the floor of any plan."""
    rows: list[list[int]] = []
    room = 0
    for length in lengths:
        if length > room:
            rows.append([])
            room = cap
        rows[-1].append(length)
        room -= length
    return rows


def best_fit_decreasing(lengths: Sequence[int], cap: int) -> list[list[int]]:
    """Longest first, each into the open row with the least room that takes it."""
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (room, row), sorted
    for length in sorted(lengths, reverse=True):
        slot = bisect_left(open_rows, (length, -1))
        if slot == len(open_rows):
            rows.append([length])
            insort(open_rows, (cap - length, len(rows) - 1))
        else:
            room, row = open_rows.pop(slot)
            rows[row].append(length)
            insort(open_rows, (room - length, row))
    return rows


def mix_lengths(lengths: Sequence[int], cap: int) -> list[list[int]]:
    """Each row: the longest sample left, then average ones, then the single or pair that fills what is left best.

    Spending average lengths first keeps both extremes, so a closing pair of exactly the right sum stays available
    until the end.
    """
    pool = LengthPool(lengths)
    rows: list[list[int]] = []
    while pool.items:
        room = cap - pool.longest()
        row = [pool.take(pool.longest())]
        while choice := choose_next(pool, room):
            row += [pool.take(length) for length in choice]
            room -= sum(choice)
        rows.append(row)
    return rows


def choose_next(pool: LengthPool, room: int) -> tuple[int, ...]:
    """The next one or two lengths for a row with `room` tokens left; empty when nothing fits."""
    single = pool.at_most(room)
    if single is None:
        return ()
    mean = pool.tokens / pool.items
    if room >= PAIR_ROOM * mean:
        return (min(pool.nearest(mean), single),)
    pair = pool.best_pair(room) if single < room else ()
    return pair if sum(pair) > single else (single,)


class LengthPool:
    """A multiset of lengths that answers «the largest of at most n» and «the best pair of at most n»."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.counts = Counter(lengths)
        self.keys = sorted(self.counts)
        self.items = len(lengths)
        self.tokens = sum(lengths)

    def longest(self) -> int:
        return self.keys[-1]

    def take(self, length: int) -> int:
        """Remove one sample of `length` and return it."""
        self.counts[length] -= 1
        if not self.counts[length]:
            del self.keys[bisect_left(self.keys, length)]
        self.items -= 1
        self.tokens -= length
        return length

    def at_most(self, room: int) -> int | None:
        """The largest length of at most `room`, or None."""
        slot = bisect_right(self.keys, room)
        return self.keys[slot - 1] if slot else None

    def nearest(self, value: float) -> int:
        """The smallest length of at least `value`, or the longest."""
        return self.keys[min(bisect_left(self.keys, value), len(self.keys) - 1)]

    def best_pair(self, room: int) -> tuple[int, ...]:
        """Two samples whose sum is closest to `room` from below, searched outward from half; empty if none fits."""
        best: tuple[int, ...] = ()
        start = bisect_right(self.keys, room // 2)
        start = max(0, start - 1)  # the length at or below half pairs with itself or with a longer one
        for larger in self.keys[start : start + PAIR_SEARCH]:
            smaller = self.at_most(room - larger)
            if smaller == larger and self.counts[larger] < 2:
                smaller = self.at_most(larger - 1)
            if smaller is not None and smaller + larger > sum(best):
                best = (larger, smaller)
                if sum(best) == room:
                    break
        return best


def assign_indices(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[tuple[int, ...]]:
    """Rows of lengths → rows of dataset indices; samples of equal length are handed out in dataset order."""
    queues: dict[int, deque[int]] = {}
    for index, length in enumerate(lengths):
        queues.setdefault(length, deque()).append(index)
    return [tuple(sorted(queues[length].popleft() for length in row)) for row in rows]
