"""Token ids in, the bytes each stands for and what each is, out. Contract ids: ENC-*.

Types follow the characters inside a token, since real tokens are fused (`"},`, `]},`); nothing is re-encoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.encode.types import TokenType
from coordexp.encode.vocabulary import read_token_bytes

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
        self._bytes: dict[int, bytes] = {}

    def piece(self, token_id: int) -> bytes:
        """UTF-8 bytes of one token; a token may hold part of a character."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = read_token_bytes(self._tokenizer, token_id)
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
    """`types` has one entry per token; `coord_positions[i]` are the tokens of object i's coords, in the order
    written.
    """

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
        _mark_desc(types, spans, starts, offsets(item.desc_span[0]), offsets(item.desc_span[1]))
        tokens = []
        for (start, end), value in zip(item.coord_spans, item.bins, strict=True):
            index = starts.get(offsets(start))
            if index is None or spans[index][1] != offsets(end) or ids[index] != coords.ids[value]:
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


class _ByteOffsets:
    """Character offset to byte offset in a text's UTF-8."""

    def __init__(self, text: str) -> None:
        self._offsets: list[int] | None = None
        if not text.isascii():
            total = 0
            self._offsets = [0]
            for char in text:
                total += len(char.encode())
                self._offsets.append(total)

    def __call__(self, character: int) -> int:
        return character if self._offsets is None else self._offsets[character]


def _byte_offsets(text: str) -> _ByteOffsets:
    return _ByteOffsets(text)
