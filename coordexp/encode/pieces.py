"""Token ids in, the bytes each stands for and what each is, out. Contract ids: ENC-*.

Types follow the characters inside a token, since real tokens are fused (`"},`, `]},`); nothing is re-encoded.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.encode.types import TokenType
from coordexp.encode.vocabulary import unspell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from coordexp.coordjson.types import ScannedAnswer, Span
    from coordexp.coords.vocab import CoordVocab


class TokenAlignmentError(ValueError):
    """Tokens and text disagree about what is written."""


class PieceTable:
    """Bytes of each token id, looked up once per id."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._bytes = {index: token.content.encode() for index, token in tokenizer.added_tokens_decoder.items()}

    def piece(self, token_id: int) -> bytes:
        """UTF-8 bytes of one token, which may hold part of a character. `ValueError` for an id without a token."""
        known = self._bytes.get(token_id)
        if known is None:
            token = self._tokenizer.convert_ids_to_tokens(token_id)
            if token is None:
                raise ValueError(f"token id {token_id} is outside the vocabulary of {len(self._tokenizer)} tokens")
            known = self._bytes[token_id] = unspell(token)
        return known

    def spans(self, ids: Sequence[int]) -> list[Span]:
        """Half-open byte offsets of each token in the bytes that the tokens spell."""
        spans = []
        position = 0
        for token_id in ids:
            end = position + len(self.piece(token_id))
            spans.append((position, end))
            position = end
        return spans

    def text(self, ids: Sequence[int]) -> str:
        """What the tokens spell; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.piece, ids)).decode("utf-8", errors="replace")


@dataclass(frozen=True, slots=True)
class TypedTokens:
    """`types` has one entry per token; `coord_positions[i]` are object i's coord tokens, in the order written."""

    types: tuple[TokenType, ...]
    coord_positions: tuple[tuple[int, ...], ...]


def type_tokens(
    ids: Sequence[int], spans: Sequence[Span], text: str, scan: ScannedAnswer, coords: CoordVocab
) -> TypedTokens:
    """Type the tokens of a scanned answer (without its `<|im_end|>`).

    A token is COORD when it is a coord token of a geometry, found by the scan's structure; DESC when it holds any
    character of a desc value; STRUCT otherwise. Raises `TokenAlignmentError` when a coord token of the text is not
    exactly one token of its bin, or a coord token id stands anywhere else.
    """
    offsets = _byte_offsets(text)
    starts = {start: index for index, (start, _) in enumerate(spans)}
    types = [TokenType.STRUCT] * len(ids)
    positions = []
    for item in scan.objects:
        _mark_desc(types, spans, starts, offsets[item.desc_span[0]], offsets[item.desc_span[1]])
        tokens = []
        for (start, end), value in zip(item.coord_spans, item.bins, strict=True):
            index = starts.get(offsets[start])
            if index is None or spans[index][1] != offsets[end] or ids[index] != coords.ids[value]:
                raise TokenAlignmentError(
                    f"{text[start:end]} at character {start} of the answer is not the one token with id "
                    f"{coords.ids[value]}"
                )
            types[index] = TokenType.COORD
            tokens.append(index)
        positions.append(tuple(tokens))
    for index, token_id in enumerate(ids):
        if types[index] != TokenType.COORD and coords.bin_of(token_id) is not None:
            raise TokenAlignmentError(f"token {index} of the answer is coord token {token_id}, outside any geometry")
    return TypedTokens(tuple(types), tuple(positions))


def _mark_desc(types: list[TokenType], spans: Sequence[Span], starts: dict[int, int], start: int, end: int) -> None:
    """Mark every token that holds a byte of `start:end`. The token of the first byte may begin before it."""
    begin = start
    while begin not in starts:
        begin -= 1
    index = starts[begin]
    while index < len(spans) and spans[index][0] < end:
        if spans[index][1] > start:
            types[index] = TokenType.DESC
        index += 1


def _byte_offsets(text: str) -> Sequence[int]:
    """Byte offset in the text's UTF-8 of each character offset, the end included."""
    if text.isascii():
        return range(len(text) + 1)
    return [0, *itertools.accumulate(len(character.encode()) for character in text)]
