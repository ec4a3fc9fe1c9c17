"""Records in an order that is known beforehand, prepared ahead of their use. Contract ids: TRAIN-017.

Workers deliver single records, whatever a step holds, so what lies ready grows neither with the size of a step nor with
the length of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from coordexp.config.sections import DataConfig
from coordexp.data.errors import DataError
from coordexp.data.types import Record
from coordexp.encode.encoder import Encoder, PreparedRecord
from coordexp.encode.errors import EncodeError
from coordexp.encode.images import ImageContractError
from coordexp.training.types import LoaderSettings

Refusal = DataError | EncodeError | ImageContractError
"""What a record can be refused for."""


class PreparedRecords(Dataset[PreparedRecord | Refusal]):
    """Item i is record i with its prompt and its image, or why it is refused; no image is read before it is asked for.

    A refusal is handed over and raised by the reader: raised in a worker it would arrive with the worker's traceback in
    its message.
    """

    def __init__(self, records: Sequence[Record], encoder: Encoder, image_root: Path | None) -> None:
        self._records, self._encoder, self._image_root = records, encoder, image_root

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> PreparedRecord | Refusal:
        try:
            return self._encoder.prepare(self._records[index], self._image_root)
        except (DataError, EncodeError, ImageContractError) as refusal:
            return refusal

    def record(self, index: int) -> Record:
        """Record `index` alone; its image is not read."""
        return self._records[index]


class _ChosenIndices(Sampler[int]):
    """The indices that were last set, so that one loader (and its workers) serves every epoch."""

    def __init__(self) -> None:
        self.indices: Sequence[int] = ()

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class RecordStream:
    """Hands out prepared records in any order asked for.

    `generator` takes the place of torch's global one where a reading must not move the stream that dropout draws from.
    """

    def __init__(
        self, records: PreparedRecords, settings: LoaderSettings, generator: torch.Generator | None = None
    ) -> None:
        self.records = records
        self._sampler = _ChosenIndices()
        self.loader: DataLoader[Any] = DataLoader(
            records,
            sampler=self._sampler,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=settings.num_workers,
            prefetch_factor=settings.prefetch_factor if settings.num_workers else None,
            persistent_workers=bool(settings.num_workers) and settings.persistent_workers,
            generator=generator,
        )

    def read(self, indices: Sequence[int]) -> Iterator[PreparedRecord]:
        """The records at `indices`, in that order; ends a reading that is still open. Raises a record's refusal."""
        self._sampler.indices = indices
        return map(_accepted, iter(self.loader))


def loader_settings(data: DataConfig) -> LoaderSettings:
    """How `data.dataloader_*` wants records read ahead."""
    return LoaderSettings(
        data.dataloader_num_workers, data.dataloader_prefetch_factor, data.dataloader_persistent_workers
    )


def _accepted(item: PreparedRecord | Refusal) -> PreparedRecord:
    if isinstance(item, Exception):
        raise item
    return item


def _as_it_is(item: PreparedRecord | Refusal) -> PreparedRecord | Refusal:
    return item
