"""An expression and a tokenizer in, the tokens that may come next in each row of a batch out. ROLL-051, ROLL-052.

The engine is xgrammar, by which vLLM masks too. It reads tokens as text; `find_exact` adds that a coord token is one
token, and never spelled with others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import xgrammar

from coordexp.coordjson import render_expression
from coordexp.coords.vocab import build_coord_vocab
from coordexp.encode.vocabulary import END_OF_TURN
from coordexp.rollout.types import RolloutError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from coordexp.config import Config

_MARK = "<"
"""Begins every special token, and stands nowhere else in an answer that the expression lets through."""
_BITS = 32


def build_expression(config: Config) -> str:
    """The expression of the answers that a model of this configuration writes: boxes alone where it trains on rollouts,
    which teach no polygons.
    """
    alone = config.rollout_matching is not None
    return render_expression(config.custom.object_field_order, ("bbox_2d",) if alone else ("bbox_2d", "poly"))


def find_exact(tokenizer: PreTrainedTokenizerBase, rows: int) -> torch.Tensor:
    """Which of `rows` ids an expression's mask may let through, as xgrammar packs it: int32, 32 ids a word.

    Left out are all tokens with `<` but coord tokens: a coord token that is spelled is none to a parser, and a control
    token ends the answer.
    """
    coords = set(build_coord_vocab(tokenizer).ids)
    kept = torch.ones(-(-rows // _BITS) * _BITS, dtype=torch.int64)
    kept[[index for token, index in tokenizer.get_vocab().items() if _MARK in token and index not in coords]] = 0
    kept[int(tokenizer.convert_tokens_to_ids(END_OF_TURN))] = 1
    return (kept.view(-1, _BITS) << torch.arange(_BITS)).sum(dim=1).to(torch.int32)


class TokenGrammar:
    """`expression` over the tokens of one tokenizer and a head of `rows` of them; compiled once, so keep it.

    Raises `RolloutError` for an expression that xgrammar does not read.
    """

    def __init__(self, expression: str, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
        self.rows, self.stop_id = rows, int(tokenizer.convert_tokens_to_ids(END_OF_TURN))
        self.exact = find_exact(tokenizer, rows)
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=rows, stop_token_ids=[self.stop_id])
        try:
            self._compiled = xgrammar.GrammarCompiler(info).compile_regex(expression)
        except RuntimeError as error:
            raise RolloutError(f"grammar: no expression that xgrammar reads: {error}") from error

    def open_matcher(self) -> xgrammar.GrammarMatcher:
        """What follows one answer from its beginning."""
        return xgrammar.GrammarMatcher(self._compiled)


class GrammarRows:
    """The answers of a batch, each followed by what was really written, whoever chose it.

    A row is free from its end token on, which something else than the mask may write before the expression ends.
    """

    def __init__(self, grammar: TokenGrammar, count: int) -> None:
        self._grammar = grammar
        self._open = {row: grammar.open_matcher() for row in range(count)}
        self._begun = False

    def mask(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`input_ids` int64 [B, T so far], `scores` float [B, V] → `scores` with -inf at tokens that may not follow."""
        if self._begun:
            self._follow(input_ids[:, -1].tolist())
        self._begun = True
        words = torch.full((len(scores), len(self._grammar.exact)), -1, dtype=torch.int32)
        for row, matcher in self._open.items():
            matcher.fill_next_token_bitmask(words, row)
            words[row] &= self._grammar.exact
        bits = (words.to(scores.device)[:, :, None] >> torch.arange(_BITS, device=scores.device)) & 1
        return scores.masked_fill(bits.flatten(1)[:, : scores.shape[1]] == 0, -torch.inf)

    def _follow(self, written: list[int]) -> None:
        for row, matcher in list(self._open.items()):
            if written[row] == self._grammar.stop_id:
                del self._open[row]
            elif not matcher.accept_token(written[row]):
                raise RolloutError(f"row {row}: token {written[row]} was written, and the grammar does not allow it")
