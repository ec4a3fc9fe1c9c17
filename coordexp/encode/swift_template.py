"""Processor in, ms-swift's qwen3_vl template out: the only module of this package that knows ms-swift. Contract ids:
ENC-*.

ms-swift takes seconds to import, so it is imported when a template is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from coordexp.encode.errors import EncodeError
from coordexp.encode.types import IGNORE_INDEX
from coordexp.encode.vocabulary import END_OF_TURN, IMAGE_PAD

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from coordexp.encode.assemble import TurnTokens

MODEL_TYPE = "qwen3_vl"


def build_template(processor: ProcessorMixin, max_length: int, max_pixels: int | None) -> Any:
    """The `Template` for training: nothing truncated, boxes left alone (`norm_bbox` none), labels on the answer.

    A processor that ms-swift did not load gets the two descriptions that its templates read.
    """
    from swift.model import MODEL_MAPPING, ModelInfo
    from swift.template import get_template

    if getattr(processor, "model_info", None) is None:
        processor.model_info = ModelInfo(
            model_type=MODEL_TYPE,
            model_dir=MODEL_TYPE,
            torch_dtype=torch.float32,
            max_model_len=max_length,
            quant_method=None,
            quant_bits=0,
            is_multimodal=True,
            task_type="causal_lm",
        )
        processor.model_meta = MODEL_MAPPING[MODEL_TYPE]
    template = get_template(
        processor,
        template_type=MODEL_TYPE,
        max_length=max_length,
        max_pixels=max_pixels,
        truncation_strategy="raise",
        norm_bbox="none",
        loss_scale="default",
    )
    # The class holds the real vocabulary's id as a number; a cut vocabulary has its own.
    template.image_token_id = processor.tokenizer.convert_tokens_to_ids(IMAGE_PAD)
    template.set_mode("train")
    return template


@contextmanager
def _as(template: Any, mode: str) -> Iterator[None]:
    """The template in a mode of ms-swift's and without its limit of length, which belongs to records (ENC-019)."""
    before = template.mode, template.max_length
    template.set_mode(mode)
    template.max_length = None
    try:
        yield
    finally:
        template.set_mode(before[0])
        template.max_length = before[1]


def encode_prompt(template: Any, messages: list[dict[str, str]]) -> list[int]:
    """Token ids of the generation prompt, one image placeholder per image, however long."""
    with _as(template, "transformers"):
        return [int(token) for token in template.encode({"messages": messages})["input_ids"]]


def encode_turn(template: Any, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Token ids and labels of a whole conversation as the template trains on it, however long."""
    with _as(template, "train"):
        encoded = template.encode({"messages": messages})
    return [int(token) for token in encoded["input_ids"]], [int(label) for label in encoded["labels"]]


@dataclass(frozen=True, slots=True)
class TurnParts:
    """What a conversation of one turn is put together from: prompt and answer, and the tokens around them."""

    prompt: list[int]
    answer: list[int]
    turn: TurnTokens


def check_turn(template: Any, messages: list[dict[str, str]], parts: TurnParts) -> None:
    """Raise `EncodeError` unless the template writes prompt, answer, `<|im_end|>`, newline, and labels answer and
    `<|im_end|>`.
    """
    ids, labels = encode_turn(template, messages)
    start = len(parts.prompt)
    end = start + len(parts.answer) + 1
    if ids != [*parts.prompt, *parts.answer, parts.turn.end, *parts.turn.newline]:
        raise EncodeError(
            f"the template did not write prompt + answer + {END_OF_TURN}; this ms-swift renders qwen3_vl otherwise "
            "than the pinned one"
        )
    if any(label != IGNORE_INDEX for label in labels[:start]) or IGNORE_INDEX in labels[start:end]:
        raise EncodeError(f"the template labels other tokens than the answer and its {END_OF_TURN}")


def upstream_size(width: int, height: int) -> tuple[int, int]:
    """Size (width, height) to which ms-swift's image loading would bring such an image, with its current limits."""
    from qwen_vl_utils import vision_process

    from coordexp.encode.processor import SIZE_MULTIPLE

    floor = vision_process.IMAGE_MIN_TOKEN_NUM * SIZE_MULTIPLE**2
    ceiling = vision_process.IMAGE_MAX_TOKEN_NUM * SIZE_MULTIPLE**2
    new_height, new_width = vision_process.smart_resize(height, width, SIZE_MULTIPLE, floor, ceiling)
    return int(new_width), int(new_height)
