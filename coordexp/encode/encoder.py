"""A record in, an `EncodedSample` out, through ms-swift's qwen3_vl template. Contract ids: ENC-*.

Labels stand on the answer and its `<|im_end|>` alone; nothing is truncated, nothing is resized, and what the tokens
say is checked against the record before it leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from coordexp.coordjson import render_answer, scan_answer
from coordexp.coords.vocab import build_coord_vocab
from coordexp.data.paths import resolve_image
from coordexp.encode.images import check_image_size, count_image_tokens, read_image
from coordexp.encode.pieces import PieceTable, TypedTokens, type_tokens
from coordexp.encode.processor import PATCH, check_processor
from coordexp.encode.prompts import render_prompt
from coordexp.encode.settings import EncodeSettings, build_settings
from coordexp.encode.swift_template import TEMPLATE_TAGS, build_template, encode_prompt
from coordexp.encode.types import IGNORE_INDEX, EncodedSample, ObjectSlots, TokenSubset, TokenType
from coordexp.encode.vocabulary import END_OF_TURN, IMAGE_PAD

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import ProcessorMixin

    from coordexp.config.types import Config
    from coordexp.data.types import Record

_IMAGE_SLOT = f"<|vision_start|>{IMAGE_PAD}<|vision_end|>"
_IMAGE_TAG = "<image>"


class EncodeError(ValueError):
    """A record that cannot be encoded as it stands, named by its source."""


class Encoder:
    """Encodes records with one processor and one set of settings; usable in dataloader workers, forked or spawned."""

    def __init__(self, processor: ProcessorMixin, settings: EncodeSettings) -> None:
        self.settings = settings
        self.processor = check_processor(processor)
        self.tokenizer: Any = processor.tokenizer
        self.coords = build_coord_vocab(self.tokenizer)
        self.prompt_text = render_prompt(settings.field_order, settings.ordering, settings.variant)
        self.template = build_template(processor, settings.max_length, settings.max_pixels)
        self.pieces = PieceTable(self.tokenizer)
        self._eos_id = int(self.tokenizer.convert_tokens_to_ids(END_OF_TURN))
        self._image_id = int(self.tokenizer.convert_tokens_to_ids(IMAGE_PAD))
        # Texts that a desc may not hold: they would turn into control tokens, coords or template tags.
        self._reserved = (*(token.content for token in self.tokenizer.added_tokens_decoder.values()), *TEMPLATE_TAGS)
        self._prompt_ids = encode_prompt(self.template, self._messages(_IMAGE_SLOT))
        self._tail_ids = [int(token) for token in self.tokenizer("\n", add_special_tokens=False)["input_ids"]]

    def answer(self, record: Record) -> str:
        """The canonical answer text of the record, without `<|im_end|>`."""
        for item in record.objects:
            if "<" in item.desc:
                held = next((token for token in self._reserved if token in item.desc), None)
                if held is not None:
                    raise EncodeError(
                        f"{record.source}: the desc {item.desc!r} holds {held}, which is not text to the "
                        "tokenizer or the template; rename the object in the data"
                    )
        return render_answer(record.objects, self.settings.field_order)

    def prompt(self, record: Record) -> list[int]:
        """Ids of the generation prompt, one image placeholder per 32 x 32 pixels; no image is opened."""
        check_image_size(record, self.settings.max_pixels)
        at = self._prompt_ids.index(self._image_id)
        return self._prompt_ids[:at] + [self._image_id] * count_image_tokens(record) + self._prompt_ids[at + 1 :]

    def length(self, record: Record) -> int:
        """Tokens of the encoded sample, vision ones included; no image is opened. Raises above `max_length`."""
        answer_ids = self.tokenizer(self.answer(record), add_special_tokens=False)["input_ids"]
        return self._checked_length(record, len(self.prompt(record)) + len(answer_ids) + 1 + len(self._tail_ids))

    def encode(self, record: Record, image_root: Path | str | None = None) -> EncodedSample:
        """The sample with its pixels.

        `image_root` resolves the record's image path (default: the folder of the record's file). Raises `EncodeError`,
        `ImageContractError`, or `CoordJSONError` for a geometry of the wrong arity.
        """
        answer = self.answer(record)
        prompt = self.prompt(record)
        self.length(record)
        image = read_image(record, resolve_image(record.source, record.images[0], image_root))
        messages = [*self._messages(_IMAGE_TAG), {"role": "assistant", "content": answer}]
        encoded = self.template.encode({"messages": messages, "images": [image]})
        self._check_grid(record, encoded["image_grid_thw"].tolist())
        ids = [int(token) for token in encoded["input_ids"]]
        typed = self._type(record, answer, prompt, ids)
        self._check_labels(record, encoded["labels"], typed, len(prompt))
        return self._sample(record, encoded, ids, typed, len(prompt))

    def _messages(self, image: str) -> list[dict[str, str]]:
        system = self.prompt_text.system
        before = [] if system is None else [{"role": "system", "content": system}]
        return [*before, {"role": "user", "content": image + self.prompt_text.user}]

    def _checked_length(self, record: Record, length: int) -> int:
        if length > self.settings.max_length:
            raise EncodeError(
                f"{record.source}: {length} tokens ({len(record.objects)} objects, {count_image_tokens(record)} vision "
                f"tokens) exceed global_max_length = {self.settings.max_length}; nothing is truncated. Raise it, or "
                "cook with fewer objects or smaller images"
            )
        return length

    def _type(self, record: Record, answer: str, prompt: list[int], ids: list[int]) -> TypedTokens:
        """Types of the answer's tokens, once `ids` are known to be prompt, answer, `<|im_end|>` and newline."""
        tail = [self._eos_id, *self._tail_ids]
        if ids[: len(prompt)] != prompt or ids[-len(tail) :] != tail:
            raise EncodeError(
                f"{record.source}: the template did not write prompt + answer + {END_OF_TURN}; this ms-swift "
                "renders qwen3_vl in another way than the pinned one"
            )
        answer_ids = ids[len(prompt) : -len(tail)]
        if self.pieces.text(answer_ids) != answer:
            raise EncodeError(
                f"{record.source}: the tokens do not spell the answer back. The tokenizer normalizes text to NFC: "
                "write every desc in NFC (unicodedata.normalize('NFC', desc))"
            )
        scan = scan_answer(answer)
        if tuple(found.item for found in scan.objects) != record.objects:
            raise EncodeError(f"{record.source}: the answer does not say the record's objects; its bins were changed")
        return type_tokens(answer_ids, self.pieces.spans(answer_ids), answer, scan, self.coords)

    def _check_grid(self, record: Record, grid: list[list[int]]) -> None:
        wanted = [[1, record.height // PATCH, record.width // PATCH]]
        if grid != wanted:
            raise EncodeError(
                f"{record.source}: the image became a patch grid {grid}, not {wanted}: ms-swift or the processor "
                "resized it (template.max_pixels, MAX_PIXELS or IMAGE_MAX_TOKEN_NUM)"
            )

    def _check_labels(self, record: Record, labels: list[int], typed: TypedTokens, start: int) -> None:
        """The template's labels must stand where ours do: on answer and `<|im_end|>` (and its own newline)."""
        end = start + len(typed.types) + 1
        if any(label != IGNORE_INDEX for label in labels[:start]) or IGNORE_INDEX in labels[start:end]:
            raise EncodeError(
                f"{record.source}: the template labels other tokens than the answer and its {END_OF_TURN}"
            )

    def _sample(self, record: Record, encoded: Any, ids: list[int], typed: TypedTokens, start: int) -> EncodedSample:
        types = torch.full((len(ids),), int(TokenType.OTHER), dtype=torch.int64)
        end = start + len(typed.types)
        types[start:end] = torch.tensor([int(kind) for kind in typed.types], dtype=torch.int64)
        types[end] = int(TokenType.EOS)
        input_ids = torch.tensor(ids, dtype=torch.int64)
        answered = types != int(TokenType.OTHER)
        objects = tuple(
            ObjectSlots(kind=item.kind, positions=tuple(start + p for p in positions), bins=item.bins)
            for item, positions in zip(record.objects, typed.coord_positions, strict=True)
        )
        return EncodedSample(
            sample_id=record.source,
            input_ids=input_ids,
            labels=torch.where(answered, input_ids, torch.full_like(input_ids, IGNORE_INDEX)),
            token_types=types,
            subsets=torch.where(answered, int(TokenSubset.GT), int(TokenSubset.NONE)),
            mm_token_type_ids=encoded["mm_token_type_ids"].to(torch.int64),
            objects=objects,
            prompt_length=start,
            pixel_values=encoded["pixel_values"].to(torch.float32),
            image_grid_thw=encoded["image_grid_thw"].to(torch.int64),
        )


def build_encoder(processor: ProcessorMixin, config: Config | EncodeSettings) -> Encoder:
    """An encoder; raises at once for a processor that resizes or a tokenizer whose coord tokens drifted."""
    settings = config if isinstance(config, EncodeSettings) else build_settings(config)
    return Encoder(processor, settings)
