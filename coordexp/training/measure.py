"""Records in, the tokens of each one's sample out, by as many processes as the config allows. TRAIN-019."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from coordexp.data.types import Record
    from coordexp.encode.encoder import Encoder

SLOW = 2000
"""From so many records on, measuring shows a progress bar."""
RECORDS_A_PROCESS = 256
"""Fewer are measured sooner than a process starts."""
_inherited: list[Encoder] = []
"""What a forked process measures with: an encoder takes longer to pickle than records to be measured."""


def measure(records: Sequence[Record], encoder: Encoder, processes: int, name: str) -> list[int]:
    """Tokens of each record's sample, counted by up to `processes` processes: one for every `RECORDS_A_PROCESS`.

    Raises `EncodeError` for the first record that cannot be encoded or is longer than a row.
    """
    processes = min(processes, len(records) // RECORDS_A_PROCESS)
    with ExitStack() as stack:
        found: Iterator[int] = map(encoder.length, records)
        if processes > 1:
            pool = ProcessPoolExecutor(processes, get_context("fork"), _inherited.append, (encoder,))
            stack.callback(pool.shutdown, cancel_futures=True)
            found = pool.map(_length, records, chunksize=RECORDS_A_PROCESS // 8)
        return list(tqdm(found, desc=f"measuring {name}", total=len(records), disable=len(records) < SLOW))


def _length(record: Record) -> int:
    return _inherited[0].length(record)
