"""A reply of ms-swift's engine in, a `RolloutOutput` out, or what is wrong with it. ROLL-024, ROLL-060.

The same for an engine behind a server and one in the learner's process. The prompt is that of the reply, for
`requests.check_prompts` to compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from coordexp.encode.vocabulary import END_OF_TURN
from coordexp.rollout.outputs import build_output
from coordexp.rollout.wire import RolloutServerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from coordexp.rollout.types import Decoding, RolloutOutput, RolloutRequest

_LARGEST_ID = 2**31
_SHOWN = 8


class AnswerReader:
    """Reads replies with the learner's `tokenizer`; `advice` is what to do about one that is no answer of ours."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, advice: str) -> None:
        self._tokenizer, self._advice = tokenizer, advice
        self._stop_id = int(tokenizer.convert_tokens_to_ids(END_OF_TURN))

    def read(
        self, request: RolloutRequest, response: Mapping[str, Any], decoding: Decoding, version: int
    ) -> RolloutOutput:
        """The output in a reply, of weights of this policy version. Raises `RolloutServerError` with what is wrong."""
        choice = response["choices"][0]
        ids, prompt = self._ids(choice, "token_ids"), self._ids(response, "prompt_token_ids")
        logprobs = self._logprobs(choice, len(ids))
        output = build_output(request, ids, self._tokenizer, policy_version=version, logprobs=logprobs)
        if output.finish_reason != choice["finish_reason"] or len(output.response_token_ids) != len(ids):
            raise RolloutServerError(
                f"ended by {choice['finish_reason']} after {len(ids)} tokens, and its ids say {output.finish_reason} "
                f"after {len(output.response_token_ids)}: answers end at the id {self._stop_id} of {END_OF_TURN} "
                f"alone; {self._advice}"
            )
        wanted = decoding.max_new_tokens
        if len(ids) > wanted or (output.finish_reason == "length" and len(ids) < wanted):
            raise RolloutServerError(
                f"ended by {output.finish_reason} after {len(ids)} tokens, and {wanted} were allowed: the engine has a "
                f"limit of its own, or none; {self._advice}"
            )
        return replace(output, prompt_token_ids=prompt)

    def _ids(self, row: Mapping[str, Any], key: str) -> tuple[int, ...]:
        """Token ids, one at least. A plain server leaves them out, an engine's tensor prints as floats."""
        found = row[key]
        if not found or not all(type(item) is int and 0 <= item < _LARGEST_ID for item in found):
            raise RolloutServerError(f"holds no list of token ids in {key} ({_shown(found)}); {self._advice}")
        return tuple(found)

    def _logprobs(self, choice: Mapping[str, Any], length: int) -> tuple[float, ...]:
        """A finite number for each of `length` tokens."""
        rows = (choice.get("logprobs") or {}).get("content") or []
        values: list[Any] = [row.get("logprob") if isinstance(row, dict) else None for row in rows]
        if len(values) != length:
            raise RolloutServerError(f"has {length} tokens and {len(values)} log-probabilities; {self._advice}")
        if not all(type(value) is float and isfinite(value) for value in values):
            raise RolloutServerError(
                f"has log-probabilities that are no finite numbers ({_shown(values)}): the engine computes NaN or "
                "infinity, or is another one; look at its log"
            )
        return tuple(float(value) for value in values)


def _shown(values: Sequence[Any] | None) -> str:
    if values is None:
        return "none"
    return f"{str(values[:_SHOWN])[:200]}, {len(values)} in all"
