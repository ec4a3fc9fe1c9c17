"""What an encoded sample holds: ids, labels, types, slots; equal in a worker."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Qwen2TokenizerFast

from coordexp.coordjson import scan_answer
from coordexp.coords.types import CoordObject
from coordexp.coords.vocab import CoordVocabError, build_coord_vocab
from coordexp.data.types import Record
from coordexp.encode.assemble import TokenAlignmentError, type_ground_truth
from coordexp.encode.encoder import Encoder, build_encoder
from coordexp.encode.errors import EncodeError
from coordexp.encode.pieces import PieceTable
from coordexp.encode.processor import build_processor, load_processor
from coordexp.encode.settings import EncodeSettings
from coordexp.encode.types import IGNORE_INDEX, EncodedSample, TokenSubset, TokenType

CAT = CoordObject("black cat.", "bbox_2d", (1, 2, 3, 4))
ROAD = CoordObject("road", "poly", (9, 8, 7, 6, 5, 4))
ENCODERS = ["real_encoder", "cut_encoder"]

MakeRecord = Callable[..., Record]


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return request.getfixturevalue(request.param)


def tokens_of(encoder: Encoder, sample: EncodedSample, kind: TokenType) -> list[str]:
    chosen = sample.input_ids[sample.token_types == int(kind)].tolist()
    return [encoder.pieces.text([token]) for token in chosen]


@pytest.mark.invariant("ENC-003")
def test_fused_tokens_are_typed_by_the_characters_they_hold(real_encoder: Encoder, make_record: MakeRecord) -> None:
    sample = real_encoder.encode(make_record([CAT, ROAD]))
    assert tokens_of(real_encoder, sample, TokenType.DESC) == ["black", " cat", '.",', "road"]
    assert tokens_of(real_encoder, sample, TokenType.COORD)[:4] == [f"<|coord_{k}|>" for k in (1, 2, 3, 4)]
    assert tokens_of(real_encoder, sample, TokenType.EOS) == ["<|im_end|>"]
    struct = tokens_of(real_encoder, sample, TokenType.STRUCT)
    assert struct[:7] == ['{"', "objects", '":', ' [{"', "desc", '":', ' "']
    assert "]}," in struct
    assert struct[-2:] == ["]}", "]}"]


@pytest.mark.invariant("ENC-003")
def test_character_split_over_tokens_is_desc_in_all_of_them(cut_encoder: Encoder, make_record: MakeRecord) -> None:
    sample = cut_encoder.encode(make_record([CoordObject("红👍", "bbox_2d", (1, 2, 3, 4))]))
    desc = sample.input_ids[sample.token_types == int(TokenType.DESC)].tolist()
    assert b"".join(map(cut_encoder.pieces.piece, desc)) == "红👍".encode()
    assert len(desc) == 7


@pytest.mark.invariant("ENC-004")
def test_labels_stand_on_the_answer_and_its_end_of_turn_alone(encoder: Encoder, make_record: MakeRecord) -> None:
    record = make_record([CAT, ROAD])
    sample = encoder.encode(record)
    supervised = sample.labels != IGNORE_INDEX
    assert torch.equal(sample.labels[supervised], sample.input_ids[supervised])
    assert encoder.pieces.text(sample.labels[supervised].tolist()) == encoder.answer(record) + "<|im_end|>"
    assert int(supervised.nonzero()[0]) == sample.prompt_length
    assert encoder.pieces.text(sample.input_ids[-2:].tolist()) == "<|im_end|>\n"
    assert supervised[-2:].tolist() == [True, False]


@pytest.mark.invariant("ENC-004")
def test_subsets_and_types_cover_the_supervised_tokens_exactly(encoder: Encoder, make_record: MakeRecord) -> None:
    sample = encoder.encode(make_record([CAT, ROAD]))
    supervised = sample.labels != IGNORE_INDEX
    assert torch.equal(supervised, sample.token_types != int(TokenType.OTHER))
    assert torch.equal(supervised, sample.subsets == int(TokenSubset.GT))
    assert set(sample.subsets[~supervised].tolist()) == {int(TokenSubset.NONE)}


@pytest.mark.invariant("ENC-005")
def test_slots_hold_each_coord_token_once_in_the_order_written(encoder: Encoder, make_record: MakeRecord) -> None:
    sample = encoder.encode(make_record([CAT, ROAD, CAT]))
    coords = build_coord_vocab(encoder.tokenizer)
    assert [slots.kind for slots in sample.objects] == ["bbox_2d", "poly", "bbox_2d"]
    assert [slots.bins for slots in sample.objects] == [CAT.bins, ROAD.bins, CAT.bins]
    for slots in sample.objects:
        assert tuple(coords.bin_of(int(sample.input_ids[p])) for p in slots.positions) == slots.bins
        assert (slots.subset, slots.row) == (TokenSubset.GT, 0)
    positions = [p for slots in sample.objects for p in slots.positions]
    assert positions == (sample.token_types == int(TokenType.COORD)).nonzero().flatten().tolist()


@pytest.mark.invariant("ENC-005")
def test_answer_tokens_of_another_bin_are_refused(real_tokenizer: Qwen2TokenizerFast) -> None:
    coords, pieces = build_coord_vocab(real_tokenizer), PieceTable(real_tokenizer)
    text = '{"objects": [{"desc": "a", "bbox_2d": [<|coord_1|>, <|coord_2|>, <|coord_3|>, <|coord_4|>]}]}'
    ids = real_tokenizer(text)["input_ids"]
    swapped = [coords.ids[5] if token == coords.ids[3] else token for token in ids]
    with pytest.raises(TokenAlignmentError, match=r"<\|coord_3\|> at character 65"):
        type_ground_truth(swapped, pieces.spans(swapped), text, scan_answer(text), coords)


@pytest.mark.invariant("ENC-005")
def test_coord_token_outside_a_geometry_is_refused(real_tokenizer: Qwen2TokenizerFast) -> None:
    coords, pieces = build_coord_vocab(real_tokenizer), PieceTable(real_tokenizer)
    text = '{"objects": [{"desc": "<|coord_9|>", "bbox_2d": [<|coord_1|>, <|coord_2|>, <|coord_3|>, <|coord_4|>]}]}'
    ids = real_tokenizer(text)["input_ids"]
    with pytest.raises(TokenAlignmentError, match="outside any geometry"):
        type_ground_truth(ids, pieces.spans(ids), text, scan_answer(text), coords)


@pytest.mark.invariant("ENC-012")
@pytest.mark.parametrize(
    "desc", ["a<|im_end|>", "<|coord_5|>", "<|image_pad|>", "<think>", "an <image> of", "<bbox>", "<|x|>"]
)
def test_desc_that_would_become_a_control_token_is_refused(
    encoder: Encoder, make_record: MakeRecord, desc: str
) -> None:
    record = make_record([CoordObject(desc, "bbox_2d", (1, 2, 3, 4))])
    for call in (encoder.answer, encoder.length, encoder.encode):
        with pytest.raises(EncodeError, match=r"records\.jsonl:1: objects\[0\]\.desc: desc .* holds '<"):
            call(record)


@pytest.mark.invariant("ENC-012")
@pytest.mark.parametrize("desc", ["a < b", "<b>", "{{QUERY}}", "{{RESPONSE}}", "<img>cat</img>", "ки"])
def test_desc_that_only_resembles_markup_is_text(encoder: Encoder, make_record: MakeRecord, desc: str) -> None:
    record = make_record([CoordObject(desc, "bbox_2d", (1, 2, 3, 4))])
    sample = encoder.encode(record)
    assert encoder.answer(record) in encoder.pieces.text(sample.input_ids.tolist())


@pytest.mark.invariant("ENC-012")
def test_desc_that_the_tokenizer_would_rewrite_is_refused(encoder: Encoder, make_record: MakeRecord) -> None:
    with pytest.raises(EncodeError, match="NFC"):
        encoder.encode(make_record([CoordObject("cafe\u0301", "bbox_2d", (1, 2, 3, 4))]))


@pytest.mark.invariant("ENC-013")
@pytest.mark.parametrize("fault", ["missing", "reordered"])
def test_tokenizer_whose_coord_ids_drifted_is_refused(cut_texts: tuple[str, ...], fault: str) -> None:
    from coordexp.encode import vocabulary

    tokens = list(vocabulary.COORD_TOKENS)
    with pytest.MonkeyPatch.context() as patch:
        changed = tokens[:-1] if fault == "missing" else [*tokens[:1], *reversed(tokens[1:])]
        patch.setattr(vocabulary, "COORD_TOKENS", tuple(changed))
        drifted = vocabulary.build_cut_tokenizer(cut_texts[:1])
    with pytest.raises(CoordVocabError, match="coord"):
        build_encoder(build_processor(drifted), EncodeSettings())


@pytest.mark.invariant("ENC-014")
def test_bins_are_written_as_they_are_whatever_the_image_size(encoder: Encoder, make_record: MakeRecord) -> None:
    assert encoder.template.norm_bbox == "none"
    boxes = [CoordObject("red circle", "bbox_2d", (0, 1, 998, 999))]
    answers = [
        sample.input_ids[sample.prompt_length :].tolist()
        for sample in (encoder.encode(make_record(boxes, *size)) for size in [(64, 64), (96, 64), (64, 128)])
    ]
    assert answers[0] == answers[1] == answers[2]
    assert [slots.bins for slots in encoder.encode(make_record(boxes, 96, 64)).objects] == [(0, 1, 998, 999)]


@pytest.mark.invariant("ENC-017")
def test_sample_is_the_same_in_a_dataloader_worker(cut_encoder: Encoder, make_record: MakeRecord) -> None:
    records = [make_record([CAT], line=1), make_record([ROAD], 96, 64, line=2)]
    loader = DataLoader(records, batch_size=1, num_workers=1, collate_fn=lambda batch: cut_encoder.encode(batch[0]))
    for record, found in zip(records, loader, strict=True):
        assert_equal(found, cut_encoder.encode(record))


@pytest.mark.invariant("ENC-017")
def test_encoder_survives_the_trip_to_a_spawned_worker(cut_encoder: Encoder, make_record: MakeRecord) -> None:
    record = make_record([CAT, ROAD], 64, 96)
    assert_equal(pickle.loads(pickle.dumps(cut_encoder)).encode(record), cut_encoder.encode(record))


@pytest.mark.invariant("ENC-017")
def test_processor_that_encodes_can_still_be_saved(cut_encoder: Encoder, tmp_path: Path) -> None:
    cut_encoder.processor.save_pretrained(tmp_path)
    assert load_processor(tmp_path).tokenizer.get_vocab() == cut_encoder.tokenizer.get_vocab()


def assert_equal(found: EncodedSample, expected: EncodedSample) -> None:
    assert (found.sample_id, found.objects, found.prompt_length) == (
        expected.sample_id, expected.objects, expected.prompt_length
    )  # fmt: skip
    for field in dataclasses.fields(EncodedSample):
        name = field.name
        if not isinstance(getattr(expected, name), torch.Tensor):
            continue
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
