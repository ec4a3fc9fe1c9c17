"""The coord vocabulary of the real tokenizer, and of real tokenizers that were built wrongly."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, Qwen2TokenizerFast

from coordexp.coords.codec import render_coord_token
from coordexp.coords.vocab import CoordVocab, CoordVocabError, build_coord_vocab, check_real_range

TOKENS = [render_coord_token(k) for k in range(1000)]


def build_tokenizer(added: list[str]) -> PreTrainedTokenizerFast:
    """A small tokenizer with `added` as special tokens, in this order."""
    model = Tokenizer(WordLevel({"<unk>": 0, "cat": 1}, unk_token="<unk>"))
    model.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>")
    tokenizer.add_tokens([AddedToken(token, special=True) for token in added])
    return tokenizer


@pytest.mark.invariant("DATA-001")
@pytest.mark.invariant("DATA-002")
def test_the_real_vocabulary_holds_the_coord_tokens_at_151670_to_152669(
    real_tokenizer: Qwen2TokenizerFast,
) -> None:
    vocab = check_real_range(build_coord_vocab(real_tokenizer))
    assert vocab.ids == tuple(range(151670, 152670))
    assert real_tokenizer.convert_tokens_to_ids("<|coord_*|>") == 151669
    assert vocab.bin_of(151669) is None
    assert real_tokenizer.convert_ids_to_tokens(vocab.ids[731]) == "<|coord_731|>"


@pytest.mark.invariant("DATA-001")
def test_any_range_will_do_as_long_as_it_is_in_order() -> None:
    vocab = build_coord_vocab(build_tokenizer(["<|coord_*|>", *TOKENS]))
    assert vocab.ids == tuple(range(3, 1003))
    assert (vocab.first, vocab.bin_of(3), vocab.bin_of(1002), vocab.bin_of(1003)) == (3, 0, 999, None)


@pytest.mark.invariant("DATA-001")
def test_what_a_tokenizer_puts_before_every_text_does_not_matter() -> None:
    tokenizer = build_tokenizer(["<s>", "<|coord_*|>", *TOKENS])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    assert tokenizer.encode("cat") == [2, 1]
    assert build_coord_vocab(tokenizer).first == 4


class Lookup:
    """The least that is asked of a tokenizer: a table of whole tokens, without an unknown token."""

    def __init__(self, ids: dict[str, int]) -> None:
        self.ids = ids

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return self.ids.get(token)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [self.ids[text]]


@pytest.mark.invariant("DATA-001")
def test_a_tokenizer_needs_neither_an_unknown_token_nor_the_wildcard() -> None:
    assert build_coord_vocab(Lookup({token: 7 + k for k, token in enumerate(TOKENS)})).first == 7


@pytest.mark.invariant("DATA-001")
def test_a_wildcard_that_is_a_coord_token_is_refused() -> None:
    shared = Lookup({token: 7 + k for k, token in enumerate(TOKENS)} | {"<|coord_*|>": 12})
    with pytest.raises(CoordVocabError, match=r"^<\|coord_\*\|> shares id 12 with a coord token; it is never a target"):
        build_coord_vocab(shared)


@pytest.mark.invariant("DATA-001")
@pytest.mark.parametrize(
    ("added", "says"),
    [
        (TOKENS[:999], "does not know <|coord_999|>"),
        ([*TOKENS[:500], *reversed(TOKENS[500:])], "consecutive ids in bin order"),
        ([*TOKENS[:10], "<|coord_*|>", *TOKENS[10:]], "<|coord_10|> has id 13 where 12 follows from <|coord_0|> = 2"),
        ([*TOKENS[:7], TOKENS[8], TOKENS[7], *TOKENS[9:]], "<|coord_7|> has id"),
    ],
    ids=["one missing", "second half reversed", "wildcard in between", "two swapped"],
)
def test_a_vocabulary_that_drifted_is_refused(added: list[str], says: str) -> None:
    with pytest.raises(CoordVocabError) as caught:
        build_coord_vocab(build_tokenizer(added))
    assert says in str(caught.value)
    assert "Use a tokenizer to which" in str(caught.value)


@pytest.mark.invariant("DATA-001")
def test_a_token_that_text_does_not_encode_to_is_refused() -> None:
    model = Tokenizer(WordLevel({"<unk>": 0, **{token: k + 1 for k, token in enumerate(TOKENS)}}, unk_token="<unk>"))
    model.pre_tokenizer = Whitespace()
    with pytest.raises(CoordVocabError, match="must be one special token"):
        build_coord_vocab(PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>"))


@pytest.mark.invariant("DATA-001")
@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (range(999), "999 ids"),
        ([*range(999), 5], "999 of them distinct"),
        ([*range(999), 1005], "consecutive"),
    ],
)
def test_ids_are_a_thousand_distinct_consecutive_ones(ids: list[int], says: str) -> None:
    with pytest.raises(CoordVocabError, match=says):
        CoordVocab(tuple(ids))


@pytest.mark.invariant("DATA-002")
@pytest.mark.parametrize("first", [151669, 151671, 0])
def test_a_shifted_range_is_no_real_vocabulary(first: int) -> None:
    with pytest.raises(CoordVocabError) as caught:
        check_real_range(CoordVocab(tuple(range(first, first + 1000))))
    assert str(caught.value) == (
        f"coord ids are {first}..{first + 999}; with the real Qwen vocabulary they are 151670..152669, after "
        "<|coord_*|> = 151669. Its added tokens drifted: rebuild it."
    )


@pytest.mark.invariant("DATA-002")
def test_the_real_range_is_returned_as_it_came() -> None:
    vocab = CoordVocab(tuple(range(151670, 152670)))
    assert check_real_range(vocab) is vocab
