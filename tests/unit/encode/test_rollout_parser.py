"""A parser bound to the real tokenizer: fused tokens, split characters, control tokens, ids that have no token."""

from __future__ import annotations

import pickle

import pytest
from transformers import Qwen2TokenizerFast

from coordexp.coordjson import OPENING_OWNER, own_prefix, render_answer
from coordexp.coords.types import CoordObject
from coordexp.coords.vocab import build_coord_vocab
from coordexp.encode.pieces import UNKNOWN_PIECE, PieceTable
from coordexp.encode.rollout_parse import RolloutParser, RolloutParserError
from coordexp.encode.vocabulary import CONTROL_TOKENS, TEXTUAL_TOKENS
from tests.unit.coordjson import toy_rollouts

CAT = CoordObject("black cat", "bbox_2d", (110, 310, 410, 705))
DOG = CoordObject("dog", "bbox_2d", (1, 2, 3, 4))


@pytest.fixture(scope="module")
def parser(real_tokenizer: Qwen2TokenizerFast) -> RolloutParser:
    return RolloutParser(real_tokenizer, build_coord_vocab(real_tokenizer))


@pytest.fixture(scope="module")
def answer(real_tokenizer: Qwen2TokenizerFast) -> list[int]:
    return real_tokenizer(render_answer([CAT, DOG]), add_special_tokens=False)["input_ids"]


@pytest.mark.invariant("PARSE-002")
def test_fused_tokens_are_shared_by_what_they_hold(
    real_tokenizer: Qwen2TokenizerFast, parser: RolloutParser, answer: list[int]
) -> None:
    pieces = PieceTable(real_tokenizer)
    parsed = parser.parse(answer)
    first, second = parsed.objects
    assert [pieces.piece(answer[at]) for at in (first.span[0], first.span[1] - 1)] == [b' [{"', b"]},"]
    assert [pieces.piece(answer[at]) for at in (second.span[0], second.span[1] - 1)] == [b' {"', b"]}"]
    assert (first.offset, first.end.offset, first.end.kept) == (2, 2, b"]}")
    assert (second.offset, second.end.offset, second.end.kept) == (1, 2, b"]}")
    assert (parsed.opening.tokens, parsed.opening.offset, parsed.opening.kept) == (4, 2, b" [")
    assert [pieces.piece(answer[at]) for at in range(*first.desc_span)] == [b"black", b" cat"]
    assert [answer[at] - 151670 for at in first.coord_positions] == [110, 310, 410, 705]


@pytest.mark.invariant("PARSE-008")
def test_the_seam_between_two_objects_names_both(
    real_tokenizer: Qwen2TokenizerFast, parser: RolloutParser, answer: list[int]
) -> None:
    pieces = PieceTable(real_tokenizer)
    held = own_prefix(parser.parse(answer))
    shared = [(pieces.piece(answer[at]), t.first, t.last) for at, t in enumerate(held) if t.first != t.last]
    assert shared == [(b' [{"', OPENING_OWNER, 0), (b' {"', 0, 1)]
    assert [t.first for at, t in enumerate(held) if pieces.piece(answer[at]) == b"]},"] == [0]


@pytest.mark.invariant("PARSE-001")
def test_the_toy_vocabulary_of_the_cases_has_the_same_control_tokens() -> None:
    assert (toy_rollouts.CONTROL_TOKENS, toy_rollouts.UNKNOWN_PIECE) == (CONTROL_TOKENS, UNKNOWN_PIECE)
    assert len(CONTROL_TOKENS) == 14


@pytest.mark.invariant("PARSE-001")
@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_each_control_token_ends_the_answer(
    real_tokenizer: Qwen2TokenizerFast, parser: RolloutParser, answer: list[int], token: str
) -> None:
    control = real_tokenizer.convert_tokens_to_ids(token)
    assert parser.parse([*answer, control, *answer]) == parser.parse(answer)
    assert parser.parse([*answer, control]).strict
    cut = parser.parse([*answer[:40], control, *answer[40:]])
    assert cut == parser.parse(answer[:40]) and cut.truncated and cut.length == 40
    assert parser.parse([control, *answer]).invalid_rollout


@pytest.mark.invariant("PARSE-001")
@pytest.mark.parametrize("token", [*TEXTUAL_TOKENS, "<|coord_*|>"])
def test_any_other_added_token_is_text(real_tokenizer: Qwen2TokenizerFast, parser: RolloutParser, token: str) -> None:
    text = render_answer([CAT]).replace("black cat", f"a {token} cat")
    ids = real_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert real_tokenizer.convert_tokens_to_ids(token) in ids
    parsed = parser.parse(ids)
    assert [found.item.desc for found in parsed.objects] == [f"a {token} cat"] and parsed.strict


@pytest.mark.invariant("PARSE-001")
@pytest.mark.parametrize("token_id", [152_670, 152_703, 2**31, 2**32, 2**70, -1])
def test_an_id_without_a_token_reads_as_the_replacement_character(
    real_tokenizer: Qwen2TokenizerFast, parser: RolloutParser, answer: list[int], token_id: int
) -> None:
    pieces = PieceTable(real_tokenizer)
    assert pieces.any_piece(token_id).decode() == "\ufffd"
    with pytest.raises(ValueError, match=f"token id {token_id} is outside the vocabulary of 152670 tokens"):
        pieces.piece(token_id)
    at = parser.parse(answer).objects[0].desc_span[1]
    parsed = parser.parse([*answer[:at], token_id, *answer[at:]])
    assert [found.item.desc for found in parsed.objects] == ["black cat\ufffd", "dog"]


@pytest.mark.invariant("PARSE-002")
def test_a_character_split_over_tokens_is_whole_again(
    real_tokenizer: Qwen2TokenizerFast, parser: RolloutParser
) -> None:
    pieces = PieceTable(real_tokenizer)
    ids = real_tokenizer(render_answer([CoordObject("𓀀 😀", "bbox_2d", (1, 2, 3, 4))]))["input_ids"]
    found = parser.parse(ids).objects[0]
    held = [pieces.piece(ids[at]) for at in range(*found.desc_span)]
    assert held == [b"\xf0\x93", b"\x80", b"\x80", b" \xf0\x9f\x98\x80"]
    assert found.item.desc == "𓀀 😀"


@pytest.mark.invariant("PARSE-001")
def test_a_tokenizer_without_a_control_token_is_refused(real_tokenizer: Qwen2TokenizerFast) -> None:
    bare = Qwen2TokenizerFast(vocab={"a": 0}, merges=[])
    with pytest.raises(RolloutParserError, match=r"the tokenizer has no <\|im_start\|>, .*; an answer ends"):
        RolloutParser(bare, build_coord_vocab(real_tokenizer))


@pytest.mark.invariant("PARSE-001")
def test_a_parser_crosses_to_a_worker(parser: RolloutParser, answer: list[int]) -> None:
    parser.parse(answer)
    assert pickle.loads(pickle.dumps(parser)).parse(answer) == parser.parse(answer)
