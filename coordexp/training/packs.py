"""Packs as a torch dataset, and the order in which ranks and accumulation windows see them.

Contract ids: TRAIN-001, TRAIN-002.

Records and a plan go in, lists of encoded samples come out. The optimizer step s of an epoch sees the same packs
whatever the number of ranks, because ranks take turns within one global order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch.utils.data import Dataset, Sampler

from coordexp.data.seeds import derive_seed
from coordexp.data.types import Record
from coordexp.encode.types import IGNORE_INDEX, EncodedSample, TokenSubset, TokenType
from coordexp.packing.plan import PackPlan


class SampleEncoder(Protocol):
    """What the dataset needs of an encoder."""

    def encode(self, record: Record, image_root: Path | None = None) -> EncodedSample: ...


@dataclass(frozen=True, slots=True)
class PackRef:
    """Index of a pack.

    `supervised` is False for a filler: the same forward, no target, so that every rank runs backward.
    """

    index: int
    supervised: bool = True


def without_targets(sample: EncodedSample) -> EncodedSample:
    """The same tokens with nothing to learn from them."""
    return EncodedSample(
        sample_id=sample.sample_id,
        input_ids=sample.input_ids,
        mm_token_type_ids=sample.mm_token_type_ids,
        labels=torch.full_like(sample.labels, IGNORE_INDEX),
        token_types=torch.full_like(sample.token_types, TokenType.OTHER),
        subsets=torch.full_like(sample.subsets, TokenSubset.NONE),
        objects=(),
        prompt_length=sample.prompt_length,
        pixel_values=sample.pixel_values,
        image_grid_thw=sample.image_grid_thw,
    )


class PackDataset(Dataset[list[EncodedSample]]):
    """Item i is the list of encoded samples of pack i; nothing is encoded before it is asked for."""

    def __init__(
        self, records: Sequence[Record], encoder: SampleEncoder, plan: PackPlan, image_root: Path | None = None
    ) -> None:
        self._records, self._encoder, self._plan, self._image_root = records, encoder, plan, image_root

    def __len__(self) -> int:
        return len(self._plan.packs)

    @property
    def row_length(self) -> int:
        """Tokens that a pack may hold."""
        return self._plan.cap

    def __getitem__(self, ref: PackRef | int) -> list[EncodedSample]:
        ref = ref if isinstance(ref, PackRef) else PackRef(ref)
        samples = [self._encoder.encode(self._records[i], self._image_root) for i in self._plan.packs[ref.index]]
        return samples if ref.supervised else [without_targets(sample) for sample in samples]


@dataclass(frozen=True, slots=True)
class Shard:
    """This process's place among the data-parallel ranks."""

    rank: int = 0
    world_size: int = 1


class PackSampler(Sampler[list[PackRef]]):
    """Batches of `per_device` packs in an order that `seed` and the epoch alone decide.

    The global order is cut into micro-batches, and rank r takes micro-batches r, r + world, … so that a window of
    `accumulation × world` micro-batches holds the same packs for every split. When the last round is short, the
    remaining ranks get fillers: each rank sees equally many batches and none is dropped.
    """

    def __init__(
        self, n_packs: int, per_device: int, *, seed: int, shard: Shard = Shard(), shuffle: bool = True
    ) -> None:
        if n_packs < 1:
            raise ValueError("there is no pack to sample from: the dataset is empty")
        self._n_packs, self._per_device, self._seed, self._shard, self._shuffle = (
            n_packs,
            per_device,
            seed,
            shard,
            shuffle,
        )
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def _micro_batches(self) -> int:
        return -(-self._n_packs // self._per_device)

    def __len__(self) -> int:
        return -(-self._micro_batches() // self._shard.world_size)

    def order(self) -> list[int]:
        """Global order of the packs in the current epoch."""
        if not self._shuffle:
            return list(range(self._n_packs))
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "epoch_order", self.epoch))
        return torch.randperm(self._n_packs, generator=generator).tolist()

    def __iter__(self) -> Iterator[list[PackRef]]:
        order = self.order()
        micro = [
            [PackRef(i) for i in order[start : start + self._per_device]]
            for start in range(0, len(order), self._per_device)
        ]
        filler = [PackRef(order[0], supervised=False)]
        for round_start in range(0, len(micro), self._shard.world_size):
            place = round_start + self._shard.rank
            yield micro[place] if place < len(micro) else filler
