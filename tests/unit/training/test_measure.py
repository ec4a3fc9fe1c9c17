"""Lengths of samples, by one process and by several."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.encode.errors import EncodeError
from coordexp.training.measure import RECORDS_A_PROCESS, measure

if TYPE_CHECKING:
    from pathlib import Path

    from coordexp.encode.encoder import Encoder

BOX = CoordObject("red star", "bbox_2d", (1, 2, 3, 4))


@pytest.fixture(scope="module")
def records(make_record: Callable[..., Record]) -> list[Record]:
    return [make_record([BOX] * (line % 5), line=line) for line in range(1, 2 * RECORDS_A_PROCESS + 40)]


@pytest.mark.invariant("TRAIN-019")
@pytest.mark.parametrize(("allowed", "used"), [(1, 1), (2, 2), (9, 2)])
def test_lengths_are_the_same_by_as_many_processes_as_are_allowed(
    records: list[Record],
    cut_encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    allowed: int,
    used: int,
) -> None:
    expected = [cut_encoder.length(record) for record in records]
    assert len(set(expected)) == 5
    length = cut_encoder.length

    def tell(record: Record) -> int:
        (tmp_path / str(os.getpid())).touch()
        return length(record)

    monkeypatch.setattr(cut_encoder, "length", tell)
    assert measure(records, cut_encoder, allowed, "train") == expected
    seen = {int(path.name) for path in tmp_path.iterdir()}
    assert (seen == {os.getpid()}) == (used == 1) and 1 <= len(seen) <= used


@pytest.mark.invariant("TRAIN-019")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_record_that_cannot_be_encoded_is_named(records: list[Record], cut_encoder: Encoder, processes: int) -> None:
    reserved = CoordObject("<|im_end|>", "bbox_2d", (1, 2, 3, 4))
    bad = [*records[:-1], dataclasses.replace(records[-1], objects=(reserved,))]
    with pytest.raises(EncodeError, match=rf"records\.jsonl:{len(bad)}: objects\[0\]\.desc: desc '<\|im_end\|>' holds"):
        measure(bad, cut_encoder, processes, "train")
