"""Batched generation with a Qwen3-VL of transformers on whatever device the model is on. Contract ids: ROLL-001..010.

Requests enter with their prompt ids and image paths; answers leave in request order, in float32 equal to those of
one-by-one generation.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig, LogitsProcessorList

from coordexp.encode.vocabulary import END_OF_TURN
from coordexp.rollout.batching import check_length_budget, left_pad, plan_batches
from coordexp.rollout.grammar import GrammarRows, TokenGrammar
from coordexp.rollout.outputs import build_output
from coordexp.rollout.patches import read_patches
from coordexp.rollout.sampling import TokenChooser
from coordexp.rollout.server_plugin.guard import build_guard
from coordexp.rollout.types import BackendSettings, Decoding, Observed, Progress, RolloutOutput, RolloutRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import ProcessorMixin, Qwen3VLForConditionalGeneration

    from coordexp.config.rollout_sections import RepeatTerminateConfig

_IMAGE_TYPE = 1


class HfBackend:
    """Decoding with `model` (Qwen3-VL, any dtype and device) and its `processor` (tokenizer and image processor).

    `decode_batch_size` alone bounds a microbatch. With `logprobs` each output carries its tokens' log-probabilities.
    `repeats`, where enabled, ends answers that repeat themselves.
    The weights are the learner's own, so they are never stale: `sync` notes their version.
    """

    def __init__(
        self,
        model: Qwen3VLForConditionalGeneration,
        processor: ProcessorMixin,
        *,
        decode_batch_size: int,
        logprobs: bool = False,
        repeats: RepeatTerminateConfig | None = None,
    ) -> None:
        self._model = model
        self._processor = processor
        self._batch_size = decode_batch_size
        self._logprobs = logprobs
        watching = repeats is not None and repeats.enabled
        self.guard = build_guard(repeats, processor.tokenizer) if repeats is not None and watching else None
        self._policy_version = 0
        self._stop_id = int(processor.tokenizer.convert_tokens_to_ids(END_OF_TURN))
        self._image_id = int(model.config.image_token_id)
        pad_id = processor.tokenizer.pad_token_id
        self._pad_id = self._stop_id if pad_id is None else int(pad_id)
        self._grammars: dict[str, TokenGrammar] = {}

    @property
    def settings(self) -> BackendSettings:
        """The data type of the model's weights, and what the backend was built with."""
        dtype = str(self._model.dtype).removeprefix("torch.")
        return BackendSettings("hf", dtype, self._batch_size, self._logprobs, self.guard is not None)

    @property
    def policy_version(self) -> int:
        """Version of the model's weights, as the last `sync` named it."""
        return self._policy_version

    def sync(self, policy_version: int) -> None:
        """Note that the model's weights are now of this version."""
        self._policy_version = policy_version

    def take_observed(self) -> Observed:
        """Nothing: the learner's own model has no wire to watch."""
        return {}

    def generate(
        self, requests: Sequence[RolloutRequest], decoding: Decoding, progress: Progress | None = None
    ) -> list[RolloutOutput]:
        """Answer every request, `outputs[i]` for `requests[i]`.

        The model is put in eval mode and given back as it was. Raises `RolloutError` before any decoding when a
        prompt plus `max_new_tokens` exceeds `max_position_embeddings`, and when an image does not fit the prompt's
        placeholders.
        """
        limit = int(self._model.config.text_config.max_position_embeddings)
        check_length_budget(requests, decoding.max_new_tokens, limit)
        outputs: dict[int, RolloutOutput] = {}
        was_training = self._model.training
        self._model.eval()
        try:
            for batch in plan_batches([len(r.prompt_token_ids) for r in requests], self._batch_size):
                told = None if progress is None else _Told(progress, len(outputs), len(requests))
                answers = self._decode([requests[i] for i in batch], decoding, told)
                outputs.update(zip(batch, answers, strict=True))
                if progress is not None:
                    progress(len(outputs), len(requests))
        finally:
            self._model.train(was_training)
        return [outputs[i] for i in range(len(requests))]

    @torch.inference_mode()
    def _decode(self, requests: list[RolloutRequest], decoding: Decoding, told: _Told | None) -> list[RolloutOutput]:
        inputs = self._batch(requests)
        width = inputs["input_ids"].shape[1]

        def tell(ids: torch.Tensor) -> None:
            if told is not None:
                told.progress(told.done + int((ids[:, width:] == self._stop_id).any(dim=1).sum()), told.total)

        grammar = None if decoding.grammar is None else GrammarRows(self._compiled(decoding.grammar), len(requests))
        chooser = TokenChooser(requests, decoding, self._model.device, tell, self.guard, grammar)
        settings = GenerationConfig(
            do_sample=False,  # the chooser has drawn already
            num_beams=1,
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=self._stop_id,
            pad_token_id=self._pad_id,
            use_cache=True,
        )
        with plain_generation(self._model):
            rows = self._model.generate(
                **inputs, generation_config=settings, logits_processor=LogitsProcessorList([chooser])
            )
        logprobs = torch.stack(chooser.logprobs, dim=1).tolist() if self._logprobs else None
        outputs = [
            build_output(
                request,
                row,
                self._processor.tokenizer,
                policy_version=self._policy_version,
                logprobs=None if logprobs is None else logprobs[number],
            )
            for number, (request, row) in enumerate(zip(requests, rows[:, width:].tolist(), strict=True))
        ]
        if self.guard is None:
            return outputs
        return [replace(each, repeat_terminated=self.guard.has_ended(each.response_token_ids)) for each in outputs]

    def _compiled(self, expression: str) -> TokenGrammar:
        if expression not in self._grammars:
            rows = int(self._model.config.text_config.vocab_size)
            self._grammars[expression] = TokenGrammar(expression, self._processor.tokenizer, rows)
        return self._grammars[expression]

    def _batch(self, requests: list[RolloutRequest]) -> dict[str, torch.Tensor]:
        device = self._model.device
        ids, mask = left_pad([r.prompt_token_ids for r in requests], self._pad_id)
        types = (ids == self._image_id).long() * _IMAGE_TYPE
        inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types}
        inputs |= read_patches(requests, self._processor.image_processor, self._image_id)
        return {name: tensor.to(device) for name, tensor in inputs.items()}


@contextmanager
def plain_generation(model: Qwen3VLForConditionalGeneration) -> Iterator[None]:
    """While open, the checkpoint's own generation settings, with which generate fills what it is not told, are none."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


@dataclass(frozen=True, slots=True)
class _Told:
    """Whom to tell of progress, and how many answers were finished before this batch."""

    progress: Progress
    done: int
    total: int
