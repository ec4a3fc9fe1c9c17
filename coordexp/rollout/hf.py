"""Batched greedy generation with a Qwen3-VL of transformers on whatever device the model is on. Contract ids:
ROLL-001..ROLL-004.

Requests enter with their prompt ids and image paths; answers leave in request order, equal to those of one-by-one
generation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from coordexp.rollout.batching import check_length_budget, left_pad, plan_batches
from coordexp.rollout.patches import read_patches
from coordexp.rollout.types import FinishReason, Progress, RolloutOutput, RolloutRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase, ProcessorMixin, Qwen3VLForConditionalGeneration

STOP_TOKEN = "<|im_end|>"
_IMAGE_TYPE = 1


class GreedyTrace(LogitsProcessor):
    """Sees every step's scores, changes none: keeps the log-probability of the greedy token and counts finished rows.

    Stored per step is one float per row, so a vocabulary of 150,000 costs no more than one of 1,000.
    """

    def __init__(self, stop_id: int, prompt_width: int, progress: Progress | None, done: int, total: int) -> None:
        self.steps: list[torch.Tensor] = []
        self._stop_id = stop_id
        self._prompt_width = prompt_width
        self._progress = progress
        self._done = done
        self._total = total

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Record this step. `input_ids` int64 [B, T so far], `scores` float [B, V]; returns `scores` untouched."""
        wide = scores.float()
        self.steps.append(wide.max(dim=-1).values - wide.logsumexp(dim=-1))
        if self._progress is not None:
            finished = (input_ids[:, self._prompt_width :] == self._stop_id).any(dim=1).sum().item()
            self._progress(self._done + int(finished), self._total)
        return scores


class HfBackend:
    """Greedy decoding with `model` (Qwen3-VL, any dtype and device) and its `processor` (tokenizer and image
    processor).

    `decode_batch_size` alone bounds a microbatch. With `logprobs` each output carries its tokens' log-probabilities.
    """

    def __init__(
        self,
        model: Qwen3VLForConditionalGeneration,
        processor: ProcessorMixin,
        *,
        decode_batch_size: int,
        max_new_tokens: int,
        logprobs: bool = False,
    ) -> None:
        self._model = model
        self._processor = processor
        self._batch_size = decode_batch_size
        self._max_new_tokens = max_new_tokens
        self._logprobs = logprobs
        self._stop_id = int(processor.tokenizer.convert_tokens_to_ids(STOP_TOKEN))
        self._image_id = int(model.config.image_token_id)
        pad_id = processor.tokenizer.pad_token_id
        self._pad_id = self._stop_id if pad_id is None else int(pad_id)

    def generate(self, requests: Sequence[RolloutRequest], progress: Progress | None = None) -> list[RolloutOutput]:
        """Answer every request, `outputs[i]` for `requests[i]`.

        The model is put in eval mode and given back as it was. Raises `RolloutError` before any decoding when a
        prompt plus `max_new_tokens` exceeds `max_position_embeddings`, and when an image does not fit the prompt's
        placeholders.
        """
        limit = int(self._model.config.text_config.max_position_embeddings)
        check_length_budget(requests, self._max_new_tokens, limit)
        outputs: dict[int, RolloutOutput] = {}
        was_training = self._model.training
        self._model.eval()
        try:
            for batch in plan_batches([len(r.prompt_token_ids) for r in requests], self._batch_size):
                answers = self._decode([requests[i] for i in batch], progress, len(outputs), len(requests))
                outputs.update(zip(batch, answers, strict=True))
                if progress is not None:
                    progress(len(outputs), len(requests))
        finally:
            self._model.train(was_training)
        return [outputs[i] for i in range(len(requests))]

    @torch.inference_mode()
    def _decode(
        self, requests: list[RolloutRequest], progress: Progress | None, done: int, total: int
    ) -> list[RolloutOutput]:
        inputs = self._batch(requests)
        width = inputs["input_ids"].shape[1]
        trace = GreedyTrace(self._stop_id, width, progress, done, total)
        settings = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=self._max_new_tokens,
            eos_token_id=self._stop_id,
            pad_token_id=self._pad_id,
            use_cache=True,
        )
        watch = LogitsProcessorList([trace] if self._logprobs or progress is not None else [])
        rows = self._model.generate(**inputs, generation_config=settings, logits_processor=watch)
        logprobs = torch.stack(trace.steps, dim=1).tolist() if self._logprobs else None
        return [
            build_output(
                request, row, self._stop_id, self._processor.tokenizer, None if logprobs is None else logprobs[number]
            )
            for number, (request, row) in enumerate(zip(requests, rows[:, width:].tolist(), strict=True))
        ]

    def _batch(self, requests: list[RolloutRequest]) -> dict[str, torch.Tensor]:
        device = self._model.device
        ids, mask = left_pad([r.prompt_token_ids for r in requests], self._pad_id)
        types = (ids == self._image_id).long() * _IMAGE_TYPE
        inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types}
        inputs |= read_patches(requests, self._processor.image_processor, self._image_id)
        return {name: tensor.to(device) for name, tensor in inputs.items()}


def build_output(
    request: RolloutRequest,
    row: Sequence[int],
    stop_id: int,
    tokenizer: PreTrainedTokenizerBase,
    logprobs: Sequence[float] | None = None,
) -> RolloutOutput:
    """The answer in a generated row: up to and with its first stop token, or the whole row when there is none."""
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
        token_logprobs=None if logprobs is None else tuple(logprobs[:length]),
    )
