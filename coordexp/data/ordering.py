"""The order in which a record's objects are answered: `custom.object_ordering`. Contract ids: DATA-017.

Objects move as wholes; points inside an object never do.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

from coordexp.data.seeds import build_generator

if TYPE_CHECKING:
    from coordexp.coords.types import CoordObject
    from coordexp.data.types import Record

ObjectOrdering = Literal["sorted", "random"]


def order_objects(record: Record, ordering: ObjectOrdering, seed: int) -> Record:
    """The record with its objects in order; raises `ValueError` for an unknown ordering.

    `sorted`: by top (y1), then left (x1) of the enclosing box, ties as written. `random`: a permutation that follows
    from (`training.seed`, sample) and is the same in every epoch.
    """
    if ordering == "sorted":
        return replace(record, objects=tuple(sorted(record.objects, key=reading_position)))
    if ordering != "random":
        raise ValueError(f"object_ordering is 'sorted' or 'random', got {ordering!r}")
    permutation = build_generator(seed, "object_ordering", portable_id(record)).permutation(len(record.objects))
    return replace(record, objects=tuple(record.objects[index] for index in permutation))


def reading_position(found: CoordObject) -> tuple[int, int]:
    """(y1, x1) of an object's enclosing box, in bins."""
    return min(found.bins[1::2]), min(found.bins[0::2])


def portable_id(record: Record) -> str:
    """The sample's id without its folder, so that a run repeats on another machine."""
    return PurePath(record.source).name
