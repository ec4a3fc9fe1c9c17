"""The real vocabulary's ids and pieces, and the small vocabulary cut from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, Qwen2TokenizerFast

from coordexp.coordjson import render_answer
from coordexp.coords.types import CoordObject
from coordexp.coords.vocab import build_coord_vocab, check_real_range
from coordexp.encode.pieces import PieceTable
from coordexp.encode.vocabulary import CONTROL_TOKENS, COORD_TOKENS, TEXTUAL_TOKENS

TWO_CATS = render_answer([CoordObject("black cat", "bbox_2d", (110, 310, 410, 705))] * 2)


@pytest.mark.invariant("ENC-001")
def test_coord_tokens_have_the_ids_the_method_is_specified_with(real_tokenizer: Qwen2TokenizerFast) -> None:
    ids = check_real_range(build_coord_vocab(real_tokenizer)).ids
    assert ids == tuple(range(151670, 152670))
    assert [real_tokenizer.convert_ids_to_tokens(i) for i in (151669, 151670, 152669)] == [
        "<|coord_*|>", "<|coord_0|>", "<|coord_999|>"
    ]  # fmt: skip
    assert len(real_tokenizer) == 152670


@pytest.mark.invariant("ENC-001")
@pytest.mark.parametrize(
    ("token", "token_id"),
    [("<|endoftext|>", 151643), ("<|im_start|>", 151644), ("<|im_end|>", 151645), ("<|vision_start|>", 151652),
     ("<|vision_end|>", 151653), ("<|image_pad|>", 151655), ("<|video_pad|>", 151656), ("</think>", 151668)],
)  # fmt: skip
def test_special_token_has_its_real_id(real_tokenizer: Qwen2TokenizerFast, token: str, token_id: int) -> None:
    assert real_tokenizer.convert_tokens_to_ids(token) == token_id
    assert real_tokenizer(f"a{token}b")["input_ids"][1] == token_id


@pytest.mark.invariant("ENC-001")
def test_real_pieces_of_an_answer_are_fused(real_tokenizer: Qwen2TokenizerFast) -> None:
    pieces = real_tokenizer.tokenize(TWO_CATS)
    assert pieces[:10] == ['{"', "objects", '":', 'Ġ[{"', "desc", '":', 'Ġ"', "black", "Ġcat", '",']
    assert "]}," in pieces
    assert pieces[-2:] == ["]}", "]}"]
    assert (real_tokenizer.eos_token, real_tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


@pytest.mark.invariant("ENC-002")
def test_covered_texts_are_cut_into_the_real_pieces(
    real_tokenizer: Qwen2TokenizerFast, cut_tokenizer: Qwen2TokenizerFast, cut_texts: tuple[str, ...]
) -> None:
    for text in cut_texts:
        assert cut_tokenizer.tokenize(text) == real_tokenizer.tokenize(text), text


@pytest.mark.invariant("ENC-002")
def test_cut_vocabulary_is_small_and_ends_in_the_same_tokens(
    real_tokenizer: Qwen2TokenizerFast, cut_tokenizer: Qwen2TokenizerFast
) -> None:
    added = (*CONTROL_TOKENS, *TEXTUAL_TOKENS, *COORD_TOKENS)
    assert len(added) == 26 + 1001
    for tokenizer in (real_tokenizer, cut_tokenizer):
        assert tuple(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer) - len(added), len(tokenizer))))) == added
    pieces = PieceTable(cut_tokenizer)
    assert 256 + len(added) < len(cut_tokenizer) < 600 + len(added)
    assert {pieces.piece(i) for i in range(256)} == {bytes([value]) for value in range(256)}


@pytest.mark.invariant("ENC-002")
@pytest.mark.parametrize("text", ["a zebra", "红色 👍🏽", "\t\x00\n", "żółć", TWO_CATS, "<|im_start|>user\n"])
def test_text_that_the_cut_does_not_cover_still_encodes(cut_tokenizer: Qwen2TokenizerFast, text: str) -> None:
    ids = cut_tokenizer(text)["input_ids"]
    assert cut_tokenizer.decode(ids) == text
    assert PieceTable(cut_tokenizer).text(ids) == text


@pytest.mark.invariant("ENC-002")
def test_saved_tokenizer_loads_equal(
    real_tokenizer: Qwen2TokenizerFast, cut_tokenizer: Qwen2TokenizerFast, tmp_path: Path
) -> None:
    """A rollout server loads the checkpoint's files; its ids must be the learner's."""
    cut_tokenizer.save_pretrained(tmp_path)
    served = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert served.get_vocab() == cut_tokenizer.get_vocab()
    for text in (TWO_CATS, "a Zebra's 12 cafés\n\n", "<|im_end|>\n"):
        assert served(text)["input_ids"] == cut_tokenizer(text)["input_ids"]
        assert real_tokenizer.decode(real_tokenizer(text)["input_ids"]) == text


@pytest.mark.invariant("ENC-001")
def test_id_outside_the_vocabulary_has_no_bytes(real_tokenizer: Qwen2TokenizerFast) -> None:
    with pytest.raises(ValueError, match="152670 is outside the vocabulary of 152670 tokens"):
        PieceTable(real_tokenizer).piece(152670)
