"""The determinism probe.

A slice read twice, with 0 and 2 workers and 1 and 2 ranks, through the trainer's own classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from coordexp.data.dataset import build_dataset
from coordexp.data.types import Record
from coordexp.encode.types import EncodedSample
from coordexp.packing.plan import PackPlan, build_plan
from coordexp.training.packs import PackDataset, PackRef, PackSampler, Shard

CAP = 60
Seen = list[tuple[tuple[str, ...], int]]


@dataclass(frozen=True)
class LengthEncoder:
    """Encodes a record to as many tokens as it needs, and to nothing that matters here."""

    def length(self, record: Record) -> int:
        return 5 + 6 * len(record.objects)

    def encode(self, record: Record, image_root: Path | None = None) -> EncodedSample:
        ids = torch.full((self.length(record),), record.objects[0].bins[0] if record.objects else 0)
        return EncodedSample(record.source, ids, ids, ids, ids, ids, (), 1)


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    lines = []
    for number in range(40):
        box = [f"<|coord_{k}|>" for k in (number, 1, 999, 999)]
        objects = [{"desc": f"{i}", "bbox_2d": box} for i in range(number % 7)]
        lines.append(json.dumps({"images": ["a.png"], "width": 32, "height": 32, "objects": objects}))
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def identity(batch: list[list[EncodedSample]]) -> list[list[EncodedSample]]:
    return batch


def probe(jsonl: Path, seed: int, workers: int, world_size: int) -> tuple[PackPlan, list[Seen]]:
    """What each rank sees in two epochs: sample ids and packed length of each row."""
    encoder = LengthEncoder()
    records = build_dataset(jsonl, sample_limit=32, object_ordering="random", seed=seed)
    plan = build_plan([encoder.length(record) for record in records], CAP)
    packs = PackDataset(records, encoder, plan)
    ranks: list[Seen] = []
    for rank in range(world_size):
        sampler = PackSampler(len(plan.packs), 1, seed=seed, shard=Shard(rank, world_size))
        loader = DataLoader(packs, batch_sampler=sampler, num_workers=workers, collate_fn=identity)
        seen: Seen = []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            rows = [row for batch in loader for row in batch]
            seen += [(tuple(sample.sample_id for sample in row), sum(map(len, row))) for row in rows]
        ranks.append(seen)
    return plan, ranks


@pytest.mark.invariant("DATA-019")
def test_two_runs_and_any_number_of_workers_see_the_same_rows(jsonl: Path) -> None:
    first = probe(jsonl, 17, 0, 1)
    assert first == probe(jsonl, 17, 0, 1) == probe(jsonl, 17, 2, 1)
    assert first[1] != probe(jsonl, 18, 0, 1)[1]
    epochs = len(first[0].packs)
    assert first[1][0][:epochs] != first[1][0][epochs:]
    assert sorted(first[1][0][:epochs]) == sorted(first[1][0][epochs:])


@pytest.mark.invariant("DATA-019")
def test_two_ranks_together_see_what_one_rank_sees(jsonl: Path) -> None:
    plan, (alone,) = probe(jsonl, 17, 0, 1)
    again, ranks = probe(jsonl, 17, 2, 2)
    assert plan == again
    rows = len(plan.packs)
    per_rank = -(-rows // 2)
    for epoch in range(2):
        shares = [rank[epoch * per_rank : (epoch + 1) * per_rank] for rank in ranks]
        together = [row for turn in zip(*shares, strict=True) for row in turn]
        assert together[:rows] == alone[epoch * rows : (epoch + 1) * rows]
        assert len(together) - rows == rows % 2


@pytest.mark.invariant("DATA-019")
def test_every_sample_is_in_exactly_one_row(jsonl: Path) -> None:
    plan, (alone,) = probe(jsonl, 17, 0, 1)
    ids = [sample for row, _ in alone[: len(plan.packs)] for sample in row]
    assert len(ids) == len(set(ids)) == 32
    assert all(length <= CAP for _, length in alone)


@pytest.mark.invariant("DATA-019")
def test_a_filler_row_teaches_nothing(jsonl: Path) -> None:
    encoder = LengthEncoder()
    records = build_dataset(jsonl, seed=17)
    packs = PackDataset(records, encoder, build_plan([encoder.length(record) for record in records], CAP))
    assert all((sample.labels == -100).all() for sample in packs[PackRef(0, supervised=False)])
