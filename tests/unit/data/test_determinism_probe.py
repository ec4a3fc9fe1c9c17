"""The same slice read twice, by any number of workers and ranks: the same samples in the same rows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from coordexp.coords.types import CoordObject
from coordexp.data.dataset import draw_samples
from coordexp.data.types import Record
from coordexp.encode.images import ImageContractError
from coordexp.encode.types import IGNORE_INDEX, TokenSubset, TokenType
from coordexp.forward.tiny import SMALLEST, build_tiny_config
from coordexp.losses.manifest import Manifest, ModuleEntry
from coordexp.losses.masks import Provenance
from coordexp.losses.objective import build_objective
from coordexp.losses.specs.token_ce import TokenCEConfig
from coordexp.packing.plan import PackPlan, build_plan
from coordexp.packing.positions import RopeIndex, build_rope_index
from coordexp.training.forwards import ForwardBuilder
from coordexp.training.ground_truth import GroundTruthPlans, Split
from coordexp.training.stream import PreparedRecords, RecordStream
from coordexp.training.types import PLAN, LoaderSettings, Shard

if TYPE_CHECKING:
    from coordexp.encode.encoder import Encoder

CAP = 260
Seen = list[tuple[tuple[str, ...], int]]
MakeRecord = Callable[..., Record]


@pytest.fixture(scope="module")
def records(make_record: MakeRecord) -> list[Record]:
    box = (1, 1, 998, 999)
    return [
        make_record([CoordObject("red star", "bbox_2d", box)] * (line % 4), width=64 + 32 * (line % 2), line=line)
        for line in range(1, 25)
    ]


@pytest.fixture(scope="module")
def rope(cut_encoder: Encoder) -> RopeIndex:
    return build_rope_index(build_tiny_config(cut_encoder.tokenizer, SMALLEST))


class Probe:
    """Plans over a slice of the records."""

    def __init__(self, records: list[Record], encoder: Encoder, rope: RopeIndex) -> None:
        self.records, self.encoder = records, encoder
        objective = build_objective(Manifest((ModuleEntry("token_ce", TokenCEConfig()),)))
        self.builder = ForwardBuilder(encoder, rope, objective, Provenance.STAGE1)

    def packs(self, seed: int) -> tuple[list[Record], PackPlan]:
        drawn = list(draw_samples(self.records, sample_limit=20, object_ordering="random", seed=seed))
        return drawn, build_plan([self.encoder.length(record) for record in drawn], CAP)

    def __call__(self, seed: int, workers: int, world_size: int) -> tuple[PackPlan, list[list[Seen]]]:
        """By rank and epoch: sample ids and packed length of each row, in order."""
        drawn, packs = self.packs(seed)
        ranks = []
        for rank in range(world_size):
            stream = RecordStream(
                PreparedRecords(drawn, self.encoder, None),
                LoaderSettings(workers, 2 if workers else None, persistent_workers=bool(workers)),
            )
            split = Split(1, 2 * world_size, Shard(rank, world_size))
            plans = GroundTruthPlans(stream, packs, self.builder, split, seed, torch.device("cpu"))
            epochs = []
            for epoch in range(2):
                plans.set_epoch(epoch)
                forwards = [forward for item in plans for forward in item[PLAN].forwards if not forward.is_filler]
                epochs.append([(tuple(s.sample_id for s in f.samples), f.batch.input_ids.shape[1]) for f in forwards])
            ranks.append(epochs)
        return packs, ranks


@pytest.fixture(scope="module")
def probe(records: list[Record], cut_encoder: Encoder, rope: RopeIndex) -> Probe:
    return Probe(records, cut_encoder, rope)


@pytest.mark.invariant("DATA-019")
def test_two_runs_and_any_number_of_workers_see_the_same_rows(probe: Probe) -> None:
    first = probe(17, 0, 1)
    assert first == probe(17, 0, 1) == probe(17, 2, 1)
    assert first[1] != probe(18, 0, 1)[1]
    one, other = first[1][0]
    assert one != other and sorted(one) == sorted(other)


@pytest.mark.invariant("DATA-019")
def test_two_ranks_together_see_what_one_rank_sees(probe: Probe) -> None:
    plan, (alone,) = probe(17, 0, 1)
    again, ranks = probe(17, 2, 2)
    assert plan == again and len(plan.packs) % 2, "an odd number of rows leaves one rank without its last"
    for epoch in range(2):
        assert len(ranks[0][epoch]) == len(ranks[1][epoch]) + 1
        turns = [row for pair in zip(ranks[0][epoch], ranks[1][epoch], strict=False) for row in pair]
        assert turns + ranks[0][epoch][-1:] == alone[epoch]


@pytest.mark.invariant("DATA-019")
def test_every_sample_is_in_exactly_one_row(probe: Probe) -> None:
    _, (alone,) = probe(17, 0, 1)
    ids = [sample for row, _ in alone[0] for sample in row]
    assert len(ids) == len(set(ids)) == 20
    assert all(length <= CAP for _, length in alone[0])


@pytest.mark.invariant("DATA-019")
@pytest.mark.invariant("TRAIN-001")
def test_a_filler_has_an_image_and_teaches_nothing(probe: Probe) -> None:
    filler = probe.builder.filler()
    assert filler.is_filler and len(filler.images) == 1 and int(filler.batch.mm_token_type_ids.sum()) == 1
    assert bool((filler.batch.labels == IGNORE_INDEX).all())
    assert bool((filler.batch.token_types == int(TokenType.OTHER)).all())
    assert bool((filler.batch.subsets == int(TokenSubset.NONE)).all())
    assert filler.context.rows.numel() == filler.context.slot_bins.numel() == filler.context.boxes.numel() == 0


@pytest.mark.invariant("TRAIN-017")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_plan_holds_tokens_and_images_and_no_pixels(probe: Probe, workers: int) -> None:
    drawn, packs = probe.packs(17)
    stream = RecordStream(PreparedRecords(drawn, probe.encoder, None), LoaderSettings(workers))
    plans = GroundTruthPlans(stream, packs, probe.builder, Split(1, 3, Shard()), 17, torch.device("cpu"))
    steps = [item[PLAN] for item in plans]
    assert len(steps) == len(plans) == -(-len(packs.packs) // 3)
    for forward in (forward for step in steps for forward in step.forwards):
        assert forward.batch.pixel_values is None and all(s.pixel_values is None for s in forward.samples)
        assert [image.size for image in forward.images] == [
            (16 * int(s.image_grid_thw[0, 2]), 16 * int(s.image_grid_thw[0, 1])) for s in forward.samples
        ]


@pytest.mark.invariant("TRAIN-017")
def test_an_answer_is_rendered_and_tokenized_once_a_plan(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, packs = probe.packs(17)
    answered: list[str] = []
    render = probe.encoder.answer
    monkeypatch.setattr(probe.encoder, "answer", lambda record: answered.append(record.source) or render(record))
    stream = RecordStream(PreparedRecords(drawn, probe.encoder, None), LoaderSettings())
    list(GroundTruthPlans(stream, packs, probe.builder, Split(1, 3, Shard()), 17, torch.device("cpu")))
    assert sorted(answered) == sorted(record.source for record in drawn)


@pytest.mark.invariant("TRAIN-017")
@pytest.mark.parametrize("prefetch", [1, 3])
def test_workers_keep_as_many_records_ready_as_the_settings_say(
    probe: Probe, prefetch: int, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many records a step holds: what a worker has read is told by a file it appends to."""
    drawn, _ = probe.packs(17)
    log = tmp_path / "read"
    log.touch()
    prepare = probe.encoder.prepare

    def tell(record: Record, image_root: object = None) -> object:
        with log.open("a") as stream:
            stream.write(f"{record.source}\n")
        return prepare(record, image_root)

    monkeypatch.setattr(probe.encoder, "prepare", tell)
    settings = LoaderSettings(1, prefetch)
    reading = RecordStream(PreparedRecords(drawn, probe.encoder, None), settings).read(range(len(drawn)))
    for count in range(1, 6):
        item = next(reading)
        assert item.record == drawn[count - 1]
    read = len(log.read_text().splitlines())
    assert 5 <= read <= 5 + prefetch < len(drawn)


@pytest.mark.invariant("TRAIN-020")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_record_refused_in_a_worker_is_told_as_in_the_main_process(probe: Probe, workers: int) -> None:
    lost = dataclasses.replace(probe.records[0], images=("lost.png",))
    stream = RecordStream(PreparedRecords([probe.records[1], lost], probe.encoder, None), LoaderSettings(workers))
    reading = stream.read([0, 1])
    assert next(reading).record == probe.records[1]
    with pytest.raises(ImageContractError) as refusal:
        next(reading)
    assert re.match(rf"{re.escape(lost.source)}: \S+lost\.png does not exist", str(refusal.value))
    assert "worker" not in str(refusal.value) and "Traceback" not in str(refusal.value)
