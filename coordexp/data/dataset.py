"""The records of a file to those a run uses, by index. Contract ids: DATA-017, DATA-018.

Enters: records, a limit, an ordering and `training.seed`. Leaves: records by index. Everything random follows from the
seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np

from coordexp.data.errors import DataError
from coordexp.data.ordering import ObjectOrdering, order_objects
from coordexp.data.seeds import build_generator
from coordexp.data.types import Record

Split = Literal["train", "val"]


@dataclass(frozen=True, eq=False)
class RecordDataset(Sequence[Record]):
    """Records by index; a plain sequence, so that any loader can read it from any process."""

    records: tuple[Record, ...]

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> RecordDataset: ...

    def __getitem__(self, index: int | slice) -> Record | RecordDataset:
        return RecordDataset(self.records[index]) if isinstance(index, slice) else self.records[index]

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """`file:line` of each record, in order."""
        return tuple(record.source for record in self.records)

    @property
    def repeats(self) -> int:
        """How many records are there more than once."""
        return sum(count - 1 for count in Counter(self.sample_ids).values())


def draw_samples(
    records: Sequence[Record],
    *,
    sample_limit: int | None = None,
    with_replacement: bool = False,
    object_ordering: ObjectOrdering = "sorted",
    seed: int,
    split: Split = "train",
) -> RecordDataset:
    """The records that a run uses, with their objects in order. `seed` is `training.seed`; raises `DataError` for a bad
    limit.
    """
    chosen = choose_samples(len(records), sample_limit, with_replacement, seed, split)
    return RecordDataset(tuple(order_objects(records[index], object_ordering, seed) for index in chosen))


def choose_samples(total: int, limit: int | None, with_replacement: bool, seed: int, split: Split) -> list[int]:
    """Indices of the records to use, ascending without replacement, in the order of drawing with it.

    None takes all. Without replacement a limit at or above `total` takes all; with it, it is the number of draws.
    """
    if limit is not None and (isinstance(limit, bool) or limit < 1):
        raise DataError(f"{split}_sample_limit is {limit!r}; it is an integer ≥ 1, or left out for all records")
    rng = build_generator(seed, "train_sample" if split == "train" else "val_sample")
    if with_replacement:
        if limit is None:
            raise DataError(
                f"sampling {split} records with replacement needs {split}_sample_limit, the number of draws"
            )
        return [int(index) for index in rng.integers(0, total, size=limit)]
    if limit is None or limit >= total:
        return list(range(total))
    return [int(index) for index in np.sort(rng.permutation(total)[:limit])]
