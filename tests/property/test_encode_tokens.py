"""Token types against a renderer that labels every character it writes; the cut vocabulary against the real one."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen2TokenizerFast

from coordexp.coordjson import render_answer
from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.encode.encoder import Encoder, build_encoder
from coordexp.encode.pieces import PieceTable
from coordexp.encode.settings import EncodeSettings
from coordexp.encode.types import TokenType
from tests.strategies import BINS, FIELD_ORDERS, PLAIN_DESCS, coord_objects

OBJECTS = coord_objects(PLAIN_DESCS)


def labelled_characters(objects: list[CoordObject], order: str) -> tuple[str, list[TokenType]]:
    """The answer and the type of each of its characters, written independently of `coordexp.coordjson`."""
    parts: list[tuple[str, TokenType]] = [('{"objects": [', TokenType.STRUCT)]
    for number, item in enumerate(objects):
        value = json.dumps(item.desc, ensure_ascii=False)[1:-1]
        desc = [('"desc": "', TokenType.STRUCT), (value, TokenType.DESC), ('"', TokenType.STRUCT)]
        geometry = [(f'"{item.kind}": [', TokenType.STRUCT)]
        for place, value in enumerate(item.bins):
            geometry += [(", " if place else "", TokenType.STRUCT), (f"<|coord_{value}|>", TokenType.COORD)]
        geometry.append(("]", TokenType.STRUCT))
        fields = [desc, geometry] if order == "desc_first" else [geometry, desc]
        parts += [(", " if number else "", TokenType.STRUCT), ("{", TokenType.STRUCT)]
        parts += [*fields[0], (", ", TokenType.STRUCT), *fields[1], ("}", TokenType.STRUCT)]
    parts.append(("]}", TokenType.STRUCT))
    return "".join(text for text, _ in parts), [kind for text, kind in parts for _ in text]


def expected_types(tokenizer: Qwen2TokenizerFast, objects: list[CoordObject], order: str) -> list[int]:
    text, kinds = labelled_characters(objects, order)
    types = []
    for start, end in tokenizer(text, return_offsets_mapping=True)["offset_mapping"]:
        held = set(kinds[start:end])
        types.append(next(k for k in (TokenType.COORD, TokenType.DESC, TokenType.STRUCT) if k in held))
    return [int(kind) for kind in types]


@pytest.fixture(scope="module")
def encoders(real_processor: object) -> dict[str, Encoder]:
    return {
        order: build_encoder(real_processor, EncodeSettings(field_order=order))
        for order in ("desc_first", "geometry_first")
    }


@pytest.mark.invariant("ENC-003")
@given(objects=st.lists(OBJECTS, max_size=4), order=FIELD_ORDERS)
def test_every_answer_token_has_the_type_of_its_characters(
    encoders: dict[str, Encoder], make_record: Callable[..., Record], objects: list[CoordObject], order: str
) -> None:
    encoder = encoders[order]
    sample = encoder.encode(make_record(objects))
    types = sample.token_types.tolist()
    start = sample.prompt_length
    assert set(types[:start]) == {int(TokenType.OTHER)}
    assert types[start:-2] == expected_types(encoder.tokenizer, objects, order)
    assert types[-2:] == [int(TokenType.EOS), int(TokenType.OTHER)]


@pytest.mark.invariant("ENC-005")
@given(objects=st.lists(OBJECTS, max_size=4), order=FIELD_ORDERS)
def test_coord_tokens_are_exactly_the_slots_and_say_the_records_bins(
    encoders: dict[str, Encoder], make_record: Callable[..., Record], objects: list[CoordObject], order: str
) -> None:
    sample = encoders[order].encode(make_record(objects))
    read = [int(sample.input_ids[p]) - 151670 for slots in sample.objects for p in slots.positions]
    assert read == [value for item in objects for value in item.bins]
    inside = (sample.input_ids >= 151670) & (sample.input_ids <= 152669)
    assert torch.equal(inside, sample.token_types == int(TokenType.COORD))


@pytest.mark.invariant("ENC-008")
@given(objects=st.lists(OBJECTS, max_size=4), order=FIELD_ORDERS)
def test_length_equals_that_of_the_encoded_sample(
    encoders: dict[str, Encoder], make_record: Callable[..., Record], objects: list[CoordObject], order: str
) -> None:
    record = make_record(objects, 96, 64)
    assert encoders[order].length(record) == len(encoders[order].encode(record))


COVERED = st.builds(
    lambda words, kind, bins: CoordObject(" ".join(words), kind, bins[:4] if kind == "bbox_2d" else bins),
    st.tuples(st.sampled_from(["red", "green", "blue"]), st.sampled_from(["circle", "square", "star"])),
    st.sampled_from(["bbox_2d", "poly"]),
    st.tuples(*[BINS] * 6),
)


@pytest.mark.invariant("ENC-002")
@given(objects=st.lists(COVERED, max_size=5), order=FIELD_ORDERS)
def test_any_answer_of_covered_words_has_the_real_pieces(
    real_tokenizer: Qwen2TokenizerFast, cut_tokenizer: Qwen2TokenizerFast, objects: list[CoordObject], order: str
) -> None:
    text = render_answer(objects, order)
    assert cut_tokenizer.tokenize(text) == real_tokenizer.tokenize(text)


@pytest.mark.invariant("ENC-002")
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_encodes_and_decodes_in_both_vocabularies(
    real_tokenizer: Qwen2TokenizerFast, cut_tokenizer: Qwen2TokenizerFast, text: str
) -> None:
    for tokenizer in (real_tokenizer, cut_tokenizer):
        ids = tokenizer(text)["input_ids"]
        assert PieceTable(tokenizer).text(ids) == unicodedata.normalize("NFC", text)
