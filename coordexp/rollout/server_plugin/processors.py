"""The repetition guard as vLLM's logits processor, for both of its interfaces. ROLL-043, ROLL-044.

In: what the engine tells of its batch, and the scores of the next tokens. Out: the same scores, but in the row of an
answer that is to end, where the stop token alone is left. The state of an answer follows from its tokens alone, as the
engine has them: a row or slot that is used again, a request that is preempted and comes back, a prompt that is filled
in chunks all find the state of their own tokens.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from torch import stack
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.logits_processor.interface import LogitsProcessor as RowInterface
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as SlotInterface

from coordexp.bridges.vllm_processors import loaded_processors
from coordexp.rollout.activation import ActivationError, read_activation
from coordexp.rollout.server_plugin.guard import build_guard

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor.interface import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcRequestState

    from coordexp.rollout.server_plugin.repeats import RepeatGuard

_UNKNOWN = -1
"""What an engine writes for a token that it has not read back yet."""


class RepeatTerminate(RowInterface, SlotInterface):  # type: ignore[misc]
    """The class that an engine loads: either of its model runners takes it, and gets the adapter of its interface."""

    def __new__(cls, vllm_config: VllmConfig, *rest: Any) -> Any:
        """`rest` is (device, is_pin_memory) from the runner with rows, (req_states,) from the one with slots."""
        guard = _guard_of(vllm_config)
        return SlotProcessor(guard, rest[0]) if len(rest) == 1 else RowProcessor(guard)


def _guard_of(vllm_config: VllmConfig) -> RepeatGuard:
    """The guard of this process's environment, over the engine's own tokenizer."""
    limits = read_activation(os.environ)
    if limits is None:
        raise ActivationError("the engine is told to load repeat_terminate, and its environment holds no limits")
    return build_guard(limits, cached_tokenizer_from_config(vllm_config.model_config))


class _Watched:
    """One answer under way, told of its tokens as they come."""

    def __init__(self, guard: RepeatGuard) -> None:
        self._guard, self.detector, self.counted = guard, guard.watch(), False

    def read(self, tokens: Sequence[int], length: int) -> None:
        """Read `tokens`, all that the answer has, up to `length`."""
        if length < self.detector.length:
            # The engine has taken tokens back.
            self.detector = self._guard.watch()
        for place in range(self.detector.length, length):
            if tokens[place] == _UNKNOWN:
                break
            self.detector.push(tokens[place])


class _Guarding:
    """What both adapters do: end answers, and count them in `triggers`."""

    def __init__(self, guard: RepeatGuard) -> None:
        self.guard, self.triggers = guard, 0

    def end(self, logits: torch.Tensor, answers: Iterable[tuple[int, _Watched]]) -> torch.Tensor:
        """`logits` float [rows, V], with the stop token alone left in the row of each answer that is to end."""
        ended = [(row, answer) for row, answer in answers if answer.detector.triggered]
        if ended:
            rows = [row for row, _ in ended]
            logits[rows] = float("-inf")
            logits[rows, self.guard.stop_id] = 0.0
        for _, answer in ended:
            # The scores of a prompt that is filled in chunks are thrown away, and come again.
            self.triggers += not answer.counted
            answer.counted = True
        return logits


class RowProcessor(_Guarding, RowInterface):  # type: ignore[misc]
    """For the runner whose requests keep a row of the batch, and move between rows."""

    def __init__(self, guard: RepeatGuard) -> None:
        super().__init__(guard)
        self._answers: dict[int, tuple[_Watched, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """No: the stop token is forced on greedy answers too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests that come, go and move. Each brings the list to which the engine adds its tokens."""
        process_dict_updates(self._answers, batch_update, lambda params, prompt, answer: (_Watched(self.guard), answer))

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """End the answers that repeat themselves."""
        for watched, tokens in self._answers.values():
            watched.read(tokens, len(tokens))
        return self.end(logits, ((row, watched) for row, (watched, _) in self._answers.items()))


class SlotProcessor(_Guarding, SlotInterface):  # type: ignore[misc]
    """For the runner whose requests keep a slot, and have another row in each step."""

    def __init__(self, guard: RepeatGuard, req_states: LogitsProcRequestState) -> None:
        super().__init__(guard)
        self._states = req_states
        self._answers: dict[int, _Watched] = {}

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """A slot is taken, maybe from another request; one that was preempted comes back as a new one."""
        self._answers[req_idx] = _Watched(self.guard)
        return True

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """End the answers that repeat themselves. Raises `ValueError` where a request has several rows."""
        slots = ctx.idx_mapping_np.tolist()
        if len(slots) != logits.shape[0]:
            raise ValueError(f"{logits.shape[0]} rows of {len(slots)} requests: no repeat_terminate with draft tokens")
        # One copy to the host: the token that each row was fed, and its place in prompt and answer.
        fed, places = stack((ctx.input_ids.long(), ctx.pos.long())).tolist()
        for slot, token, place in zip(slots, fed, places, strict=True):
            self._read(slot, token, place + 1)
        return self.end(logits, ((row, self._answers[slot]) for row, slot in enumerate(slots)))

    def _read(self, slot: int, token: int, seen: int) -> None:
        """`seen` tokens of the prompt and answer in `slot` have gone in, `token` last."""
        watched, prompt = self._answers[slot], int(self._states.prompt_len.np[slot])
        length = max(0, seen - prompt)
        if length == watched.detector.length + 1:
            watched.detector.push(token)
        elif length != watched.detector.length:
            # A request that came back with a part of its answer: read what the engine has kept of it.
            watched.read(self._states.all_token_ids.gpu[slot, prompt:seen].tolist(), length)


def digest_in(worker: Any) -> str | None:
    """Digest of the limits with which a worker of the engine ends answers; None where it ends none."""
    loaded = loaded_processors(worker)
    return next((each.guard.digest for each in loaded if isinstance(each, (RowProcessor, SlotProcessor))), None)
