"""Where the 1000 coord tokens live in a tokenizer: asked of the tokenizer, never computed.

Contract ids: DATA-001, DATA-002.
Enters: anything with `convert_tokens_to_ids` and `encode` (transformers or a stand-in). Leaves: a frozen list of ids
in bin order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from coordexp.coords.codec import MAX_BIN, N_BINS, render_coord_token

WILDCARD_TOKEN = "<|coord_*|>"
REAL_FIRST_ID = 151670
REAL_LAST_ID = REAL_FIRST_ID + MAX_BIN


class CoordVocabError(ValueError):
    """The tokenizer does not hold the 1000 coord tokens as single, distinct ids in bin order."""


class CoordTokenizer(Protocol):
    """What is asked of a tokenizer: an id for a token, and the ids of a text without special tokens around it."""

    def convert_tokens_to_ids(self, tokens: Any) -> Any: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class CoordVocab:
    """`ids[k]` is the token id of bin k; exactly 1000 distinct ids, consecutive and in bin order."""

    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != N_BINS or len(set(self.ids)) != N_BINS:
            raise CoordVocabError(
                f"the coord vocabulary has {len(self.ids)} ids, {len(set(self.ids))} of them distinct; it needs "
                f"{N_BINS} distinct ids, one for each of <|coord_0|> .. <|coord_{MAX_BIN}|>. {_REMEDY}"
            )
        first = self.ids[0]
        for k, token_id in enumerate(self.ids):
            if token_id != first + k:
                raise CoordVocabError(
                    f"<|coord_{k}|> has id {token_id} where {first + k} follows from <|coord_0|> = {first}: the coord "
                    f"tokens must have consecutive ids in bin order. {_REMEDY}"
                )

    @property
    def first(self) -> int:
        """Id of bin 0."""
        return self.ids[0]

    def bin_of(self, token_id: int) -> int | None:
        """Bin of a token id, or None when it is no coord token."""
        offset = token_id - self.ids[0]
        return offset if 0 <= offset < N_BINS else None


_REMEDY = "Use a tokenizer to which <|coord_0|> .. <|coord_999|> were added in this order, right after <|coord_*|>."


def build_coord_vocab(tokenizer: CoordTokenizer) -> CoordVocab:
    """Look each coord token up in the tokenizer.

    Raises `CoordVocabError` when one is unknown, is split into several tokens, disagrees between lookup and encoding,
    or when the 1000 ids are not distinct and consecutive in bin order, or hold the id of `<|coord_*|>`.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    ids = tuple(_token_id(tokenizer, render_coord_token(k), unknown) for k in range(N_BINS))
    vocab = CoordVocab(ids)
    wildcard = tokenizer.convert_tokens_to_ids(WILDCARD_TOKEN)
    if isinstance(wildcard, int) and wildcard != unknown and wildcard in ids:
        raise CoordVocabError(
            f"{WILDCARD_TOKEN} shares id {wildcard} with a coord token; it is never a target. {_REMEDY}"
        )
    return vocab


def _token_id(tokenizer: CoordTokenizer, token: str, unknown: int | None) -> int:
    looked_up = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(looked_up, int) or looked_up == unknown:
        raise CoordVocabError(f"the tokenizer does not know {token} (it answers {looked_up!r}). {_REMEDY}")
    encoded = list(tokenizer.encode(token, add_special_tokens=False))
    if encoded != [looked_up]:
        raise CoordVocabError(
            f"{token} encodes to {encoded} but its id is {looked_up}: it must be one special token. {_REMEDY}"
        )
    return looked_up


def check_real_range(vocab: CoordVocab) -> CoordVocab:
    """Return `vocab` if its ids are 151670..152669, as in the real Qwen vocabulary; else raise `CoordVocabError`."""
    if vocab.first != REAL_FIRST_ID:
        raise CoordVocabError(
            f"coord ids are {vocab.ids[0]}..{vocab.ids[-1]}; with the real Qwen vocabulary they are {REAL_FIRST_ID}.."
            f"{REAL_LAST_ID}, after <|coord_*|> = {REAL_FIRST_ID - 1}. Its added tokens drifted: rebuild it."
        )
    return vocab
