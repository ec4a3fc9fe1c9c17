"""A tokenizer in, a parser of its rollouts out: which ids are coord tokens, which end an answer.

Contract ids: PARSE-001, PARSE-002.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.coordjson import RolloutVocabulary, parse_rollout
from coordexp.encode.pieces import PieceTable
from coordexp.encode.vocabulary import CONTROL_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from coordexp.coordjson import ParsedRollout
    from coordexp.coords.vocab import CoordVocab


class RolloutParserError(ValueError):
    """A tokenizer that lacks a control token."""


class RolloutParser:
    """Parses responses of one tokenizer; each token is looked up once, so keep it. Usable in dataloader workers.

    Without `allow_poly` polygons are dropped as `poly_unsupported`, as rollout training asks; evaluation takes them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, coords: CoordVocab, *, allow_poly: bool = False) -> None:
        control = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
        missing = [token for token in CONTROL_TOKENS if token not in control]
        if missing:
            raise RolloutParserError(
                f"the tokenizer has no {', '.join(missing)}; an answer ends at any of {', '.join(CONTROL_TOKENS)}. "
                "Use the tokenizer of a Qwen3-VL checkpoint"
            )
        bins = {token_id: value for value, token_id in enumerate(coords.ids)}
        ends = [control[token] for token in CONTROL_TOKENS]
        self._vocabulary = RolloutVocabulary(PieceTable(tokenizer).any_piece, bins, ends)
        self._allow_poly = allow_poly

    def parse(self, ids: Sequence[int]) -> ParsedRollout:
        """Read a response. Spans and positions are indices into `ids`. Whatever the ids are, nothing is raised."""
        return parse_rollout(ids, self._vocabulary, allow_poly=self._allow_poly)
