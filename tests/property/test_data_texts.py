"""Texts of descs over all of Unicode: what the record contract accepts, every tokenizer of Qwen3-VL spells back."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen2TokenizerFast

from coordexp.coordjson import render_answer, scan_answer
from coordexp.coords.types import CoordObject
from coordexp.data.rules import find_problems
from coordexp.data.texts import PLAIN_ADDED_TOKENS, RESERVED_TEXTS, TEMPLATE_TAGS, desc_fault, normalize_desc
from coordexp.data.wire import decode_line
from coordexp.encode.encoder import Encoder
from coordexp.encode.pieces import PieceTable

MARKS = "\u0301\u0338\u200b\u200d\u00ad\u2028\ufeff\n\t \u00a0<|>&\uff21\u1100\u1161"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(MARKS), max_size=12) | st.builds(
    "".join, st.lists(st.sampled_from([*RESERVED_TEXTS, *MARKS, "a", "<|im_end|>", "<thi", "nk>"]), max_size=4)
)


@pytest.mark.invariant("DATA-022")
@given(TEXTS)
def test_a_normalized_text_stays_as_it_is_and_is_accepted_unless_blank_or_reserved(text: str) -> None:
    made = normalize_desc(text)
    assert normalize_desc(made) == made
    fault = desc_fault(made)
    assert (None if fault is None else fault.rule) in (
        None,
        *(["desc_empty"] if not made else []),
        "desc_special_token",
    )
    if fault is not None and made:
        assert any(held in made for held in RESERVED_TEXTS)


@pytest.mark.invariant("DATA-022")
@given(TEXTS.filter(lambda text: desc_fault(text) is None))
def test_the_real_tokenizer_spells_an_accepted_desc_back(real_tokenizer: Qwen2TokenizerFast, text: str) -> None:
    answer = render_answer([CoordObject(text, "bbox_2d", (1, 2, 3, 4))])
    ids = real_tokenizer(answer, add_special_tokens=False)["input_ids"]
    assert PieceTable(real_tokenizer).text(ids) == answer
    assert scan_answer(answer).objects[0].item.desc == text


@pytest.mark.invariant("DATA-022")
def test_each_accepted_character_is_spelled_back(real_tokenizer: Qwen2TokenizerFast) -> None:
    """All of Unicode, in texts of 64 letters: Python's tables and the tokenizer's are not of one version."""
    letters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    accepted = [letter for letter in letters if desc_fault(f"a{letter}a") is None]
    assert len(accepted) > 1_000_000
    texts = ["a".join(accepted[start : start + 64]) for start in range(0, len(accepted), 64)]
    pieces = PieceTable(real_tokenizer)
    found = real_tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert [text for text, ids in zip(texts, found, strict=True) if pieces.text(ids) != text] == []


@pytest.mark.invariant("DATA-022")
def test_no_added_token_of_the_real_tokenizer_passes_in_a_desc(real_tokenizer: Qwen2TokenizerFast) -> None:
    added = [token.content for token in real_tokenizer.added_tokens_decoder.values()]
    assert len(added) > 1000 and set(PLAIN_ADDED_TOKENS) == {text for text in added if "<|" not in text}
    for text in added:
        fault = desc_fault(f"a {text} b")
        assert fault is not None and fault.rule == "desc_special_token"


@pytest.mark.invariant("DATA-022")
def test_the_tags_of_the_template_are_those_that_it_replaces(real_encoder: Encoder) -> None:
    assert set(real_encoder.template.special_tokens) == set(TEMPLATE_TAGS)
    for tag in TEMPLATE_TAGS:
        fault = desc_fault(f"a {tag}")
        assert fault is not None and fault.rule == "desc_special_token"


@pytest.mark.invariant("DATA-022")
@given(TEXTS)
def test_both_readings_of_a_record_ask_the_rule(text: str) -> None:
    objects = [{"desc": text, "bbox_2d": [1, 1, 9, 9]}]
    line = json.dumps({"images": ["a.png"], "width": 64, "height": 64, "objects": objects}).encode()
    fault = desc_fault(text)
    assert [finding.rule for finding in find_problems(line)] == ([] if fault is None else [fault.rule])
    assert (decode_line(line, keys_are_unique=True) is None) == (fault is not None)
