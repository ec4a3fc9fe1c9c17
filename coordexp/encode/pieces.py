"""Token ids in, the bytes that each stands for out. Contract ids: ENC-*."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.encode.vocabulary import unspell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from coordexp.coordjson.types import Span

UNKNOWN_PIECE = "\ufffd".encode()
_ID_LIMIT = 1 << 32  # a fast tokenizer's ids are unsigned and have 32 bits


class PieceTable:
    """Bytes of each token id, looked up once per id."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._bytes = {index: token.content.encode() for index, token in tokenizer.added_tokens_decoder.items()}

    def piece(self, token_id: int) -> bytes:
        """UTF-8 bytes of one token, which may hold part of a character. `ValueError` for an id without a token."""
        known = self._bytes.get(token_id)
        if known is None:
            token = self._tokenizer.convert_ids_to_tokens(token_id) if 0 <= token_id < _ID_LIMIT else None
            if token is None:
                raise ValueError(f"token id {token_id} is outside the vocabulary of {len(self._tokenizer)} tokens")
            known = self._bytes[token_id] = unspell(token)
        return known

    def any_piece(self, token_id: int) -> bytes:
        """As `piece`, but U+FFFD for an id without a token: a head has more rows than there are tokens, and any of them
        can be sampled.
        """
        try:
            return self.piece(token_id)
        except ValueError:
            return UNKNOWN_PIECE

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
