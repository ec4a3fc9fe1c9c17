"""Limits and a tokenizer in, the guard that watches answers out. ROLL-040."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.encode.pieces import PieceTable
from coordexp.encode.vocabulary import END_OF_TURN
from coordexp.rollout.server_plugin.repeats import RepeatGuard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from coordexp.config.rollout_sections import RepeatTerminateConfig

PROCESSOR = "coordexp.rollout.server_plugin.processors:RepeatTerminate"
"""The class that an engine is told to load as a logits processor."""


def build_guard(limits: RepeatTerminateConfig, tokenizer: PreTrainedTokenizerBase) -> RepeatGuard:
    """The guard over answers of this tokenizer."""
    stop_id = int(tokenizer.convert_tokens_to_ids(END_OF_TURN))
    return RepeatGuard(limits, PieceTable(tokenizer).any_piece, stop_id)
