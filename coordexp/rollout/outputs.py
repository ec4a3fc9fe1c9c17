"""Generated ids in, a `RolloutOutput` out: where an answer ends, whichever backend wrote it. Contract id: ROLL-005."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.encode.vocabulary import END_OF_TURN
from coordexp.rollout.types import FinishReason, RolloutOutput, RolloutRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase


def build_output(
    request: RolloutRequest,
    row: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    *,
    policy_version: int,
    logprobs: Sequence[float] | None = None,
) -> RolloutOutput:
    """The answer in a generated row: up to and with its first stop token, or the whole row when there is none."""
    stop_id = int(tokenizer.convert_tokens_to_ids(END_OF_TURN))
    reason: FinishReason = "stop" if stop_id in row else "length"
    length = list(row).index(stop_id) + 1 if reason == "stop" else len(row)
    kept = row[:length]
    text_ids = kept[:-1] if reason == "stop" else kept
    text = tokenizer.decode(text_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return RolloutOutput(
        sample_id=request.sample_id,
        prompt_token_ids=request.prompt_token_ids,
        response_token_ids=tuple(kept),
        text=text,
        finish_reason=reason,
        policy_version=policy_version,
        token_logprobs=None if logprobs is None else tuple(logprobs[:length]),
    )
