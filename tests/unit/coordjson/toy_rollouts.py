"""Responses of a toy vocabulary, in which any stretch of bytes is a token: what a case of fixtures/coordjson says."""

from __future__ import annotations

import re
from collections.abc import Sequence

from coordexp.coordjson import ParsedRollout, RolloutVocabulary, parse_rollout

# As coordexp.encode.vocabulary has them, which imports the tokenizers; test_rollout_parser compares.
CONTROL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
UNKNOWN_PIECE = "\ufffd".encode()
_SPECIAL = re.compile("(" + "|".join([r"<\|coord_(?:0|[1-9][0-9]{0,2})\|>", *map(re.escape, CONTROL_TOKENS)]) + ")")
_COORD_DIGITS = re.compile(r"\d+")
_FIRST_COORD, _FIRST_TEXT = 100, 3000
BINS = {_FIRST_COORD + k: k for k in range(1000)}
CONTROL = range(len(CONTROL_TOKENS))


class ToyTokens:
    """A response: its ids, the bytes of each, and the vocabulary that reads them."""

    def __init__(self, tokens: Sequence[object]) -> None:
        self.pieces: dict[int, bytes] = {}
        self.ids: list[int] = []
        for token in tokens:
            if isinstance(token, dict):
                self._add(UNKNOWN_PIECE if token.get("unknown") else bytes.fromhex(token["hex"]))
            else:
                for part in filter(None, _SPECIAL.split(str(token))):
                    self._add_text(part)
        self.vocabulary = RolloutVocabulary(self.piece, BINS, CONTROL)

    def piece(self, token_id: int) -> bytes:
        if token_id in BINS:
            return f"<|coord_{BINS[token_id]}|>".encode()
        return self.pieces[token_id]

    def parse(self, allow_poly: bool = False) -> ParsedRollout:
        return parse_rollout(self.ids, self.vocabulary, allow_poly=allow_poly)

    def text(self, start: int, end: int) -> bytes:
        return b"".join(map(self.piece, self.ids[start:end]))

    def bin_at(self, position: int) -> int | None:
        return BINS.get(self.ids[position])

    def prefix(self, parsed: ParsedRollout) -> bytes:
        """What the append-ready prefix spells: whole tokens, then the kept bytes of the last."""
        cut = parsed.prefix
        if not cut.tokens:
            return b""
        assert self.piece(self.ids[cut.tokens - 1])[: cut.offset] == cut.kept
        return self.text(0, cut.tokens - 1) + cut.kept

    def _add_text(self, part: str) -> None:
        if part in CONTROL_TOKENS:
            self.ids.append(CONTROL_TOKENS.index(part))
        elif _SPECIAL.fullmatch(part):
            self.ids.append(_FIRST_COORD + int(_COORD_DIGITS.findall(part)[0]))
        else:
            self._add(part.encode())

    def _add(self, piece: bytes) -> None:
        token_id = _FIRST_TEXT + len(self.pieces)
        self.pieces[token_id] = piece
        self.ids.append(token_id)
