"""Accepted means trainable: a record that the check passes encodes, packs and collates, as long as it was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import ProcessorMixin

from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.encode.encoder import Encoder, build_encoder
from coordexp.encode.errors import EncodeError
from coordexp.encode.images import ImageContractError
from coordexp.encode.record_check import find_refusals
from coordexp.encode.settings import EncodeSettings
from coordexp.packing.collate import collate_packed
from coordexp.packing.plan import build_plan
from coordexp.packing.positions import build_rope_index
from tests.plugins.tiny_qwen import tiny_config
from tests.strategies import ANY_DESCS, FIELD_ORDERS, PLAIN_DESCS, coord_objects

MakeRecord = Callable[..., Record]
LIMIT, CAP = 700, 128 * 128
SIDES = st.sampled_from([32, 48, 64, 96, 100, 128, 160, 416, 6432])
DESCS = st.one_of(PLAIN_DESCS, ANY_DESCS, st.sampled_from(["<image>", "<think>", "caf\u00e9", "cafe\u0301", "x\u200b"]))


@pytest.fixture(scope="module")
def encoders(real_processor: ProcessorMixin) -> dict[str, Encoder]:
    return {
        order: build_encoder(real_processor, EncodeSettings(field_order=order, max_length=LIMIT, max_pixels=CAP))
        for order in ("desc_first", "geometry_first")
    }


@st.composite
def many(draw: st.DrawFn) -> list[CoordObject]:
    """Objects with names that hold anything; sometimes too many for a row."""
    found = draw(st.lists(coord_objects(DESCS), max_size=4))
    return found * draw(st.sampled_from([1, 1, 2, 12]))


@pytest.mark.invariant("ENC-030")
@given(st.lists(st.tuples(many(), SIDES, SIDES), min_size=1, max_size=3), FIELD_ORDERS)
def test_what_passes_can_be_trained_on_and_what_does_not_cannot(
    encoders: dict[str, Encoder],
    make_record: MakeRecord,
    drawn: list[tuple[list[CoordObject], int, int]],
    order: str,
) -> None:
    encoder = encoders[order]
    records = [
        dataclasses.replace(make_record(objects, line=line), width=width, height=height)
        for line, (objects, width, height) in enumerate(drawn, 1)
    ]
    refused = {problem.where for problem in find_refusals(encoder, records, boxes_only=False)}
    for record in records:
        if record.source in refused:
            with pytest.raises((EncodeError, ImageContractError)):
                encoder.sample(record)
    accepted = [record for record in records if record.source not in refused]
    assume(accepted)
    # The images are noise of the record's own size, made where a record passes.
    accepted = [dataclasses.replace(record, images=picture(make_record, record)) for record in accepted]
    samples = [encoder.encode(record) for record in accepted]
    lengths = [encoder.length(record) for record in accepted]
    assert lengths == [len(sample) for sample in samples]
    for pack in build_plan(lengths, LIMIT).packs:
        batch = collate_packed([samples[index] for index in pack], ROPE)
        assert batch.input_ids.shape[1] == sum(lengths[index] for index in pack) <= LIMIT


def picture(make_record: MakeRecord, record: Record) -> tuple[str, ...]:
    return make_record((), record.width, record.height).images


ROPE = build_rope_index(tiny_config())


@pytest.mark.invariant("ENC-030")
@given(st.lists(coord_objects(PLAIN_DESCS), max_size=6), FIELD_ORDERS)
def test_an_answer_is_counted_by_its_pieces(
    encoders: dict[str, Encoder], make_record: MakeRecord, objects: list[CoordObject], order: str
) -> None:
    encoder, record = encoders[order], make_record(objects)
    counted = encoder.lengths.count(objects)
    assert counted == len(encoder.tokenizer(encoder.answer(record), add_special_tokens=False)["input_ids"])
    assert list(encoder.lengths.count_all([record] * 3)) == [counted] * 3 and encoder.lengths.spells(objects)
