"""Answers in, what the learner's own model says of their tokens out: one teacher-forced forward each. ROLL-019."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coordexp.rollout.patches import read_patches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import ProcessorMixin, Qwen3VLForConditionalGeneration

    from coordexp.rollout.types import RolloutRequest

_IMAGE_TYPE = 1


@dataclass(frozen=True, slots=True)
class TokenScores:
    """For each token of an answer: its log-probability (natural log), the likeliest token in its place, and that one's
    log-probability.
    """

    logprobs: tuple[float, ...]
    likeliest: tuple[int, ...]
    best: tuple[float, ...]


class TeacherScorer:
    """Scores with `model` (Qwen3-VL, any dtype and device) as it is; `processor` prepares its images."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, processor: ProcessorMixin) -> None:
        self._model, self._processor = model, processor
        self._image_id = int(model.config.image_token_id)

    @torch.inference_mode()
    def score(self, request: RolloutRequest, answer: Sequence[int]) -> TokenScores:
        """What the model, in eval mode, says of `answer` after the request's prompt; it is given back as it was."""
        model = self._model
        ids = torch.tensor([[*request.prompt_token_ids, *answer]])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == self._image_id).long() * _IMAGE_TYPE,
            **read_patches([request], self._processor.image_processor, self._image_id),
        }
        was_training = model.training
        model.eval()
        try:
            moved = {name: tensor.to(model.device) for name, tensor in inputs.items()}
            logits = model(**moved, use_cache=False).logits[0, len(request.prompt_token_ids) - 1 : -1].float()
        finally:
            model.train(was_training)
        chosen = torch.tensor(list(answer), device=logits.device)[:, None]
        norm = logits.logsumexp(dim=-1)
        best, likeliest = logits.max(dim=-1)
        logprobs = logits.gather(1, chosen).squeeze(1) - norm
        return TokenScores(tuple(logprobs.tolist()), tuple(likeliest.tolist()), tuple((best - norm).tolist()))
