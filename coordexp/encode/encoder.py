"""A record in, an `EncodedSample` out, in the words of ms-swift's qwen3_vl template. Contract ids: ENC-*.

Labels stand on the answer and its `<|im_end|>` alone; nothing is truncated, nothing is resized, and what the tokens
say is checked against the record before it leaves.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from coordexp.coordjson import render_answer, scan_answer
from coordexp.coords.vocab import build_coord_vocab
from coordexp.data.errors import Finding, RecordProblem
from coordexp.data.paths import resolve_image
from coordexp.encode.answer_length import AnswerLengths
from coordexp.encode.assemble import Prompt, TurnTokens, assemble, type_ground_truth
from coordexp.encode.errors import EncodeError
from coordexp.encode.images import check_image_size, count_image_tokens, read_image
from coordexp.encode.pieces import PieceTable
from coordexp.encode.pixels import make_patches
from coordexp.encode.processor import PATCH, SIZE_MULTIPLE, check_processor
from coordexp.encode.prompts import render_prompt
from coordexp.encode.record_check import UNSPELLED, DescCheck, length_finding
from coordexp.encode.rollout_target import TargetWriter
from coordexp.encode.settings import EncodeSettings, build_settings
from coordexp.encode.swift_template import TurnParts, build_template, check_turn, encode_prompt
from coordexp.encode.types import EncodedSample, TargetPlan, TypedAnswer
from coordexp.encode.vocabulary import END_OF_TURN, IMAGE_PAD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import torch
    from transformers import ProcessorMixin

    from coordexp.config.types import Config
    from coordexp.data.types import Record

_IMAGE_SLOT = f"<|vision_start|>{IMAGE_PAD}<|vision_end|>"


@dataclass(frozen=True, eq=False)
class PreparedRecord:
    """What a dataloader worker hands over, good for any kind of step: the record, its prompt, its image in RGB."""

    record: Record
    prompt: Prompt
    image: Image.Image


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
        self._targets = TargetWriter(self._tokenize, self.pieces, self.coords, settings.field_order)
        self.turn = TurnTokens(
            image=int(self.tokenizer.convert_tokens_to_ids(IMAGE_PAD)),
            end=int(self.tokenizer.convert_tokens_to_ids(END_OF_TURN)),
            newline=tuple(self._tokenize("\n")),
        )
        self.descs = DescCheck([token.content for token in self.tokenizer.added_tokens_decoder.values()])
        self.lengths = AnswerLengths(self.tokenizer, self.pieces, settings.field_order)
        # Samples that training and rollouts share are put together here, not by the template, so both must write alike.
        prompt = self.messages()
        self._prompt_ids = encode_prompt(self.template, prompt)
        empty = render_answer([], settings.field_order)
        written = TurnParts(self._prompt_ids, self._tokenize(empty), self.turn)
        check_turn(self.template, [*prompt, {"role": "assistant", "content": empty}], written)

    def answer(self, record: Record) -> str:
        """The canonical answer text of the record, without `<|im_end|>`."""
        _refuse(record, next(self.descs.findings(record.objects), None))
        return render_answer(record.objects, self.settings.field_order)

    def messages(self, image: str = _IMAGE_SLOT) -> list[dict[str, str]]:
        """The conversation that every record's prompt is made of, with `image` where its image stands."""
        system = self.prompt_text.system
        before = [] if system is None else [{"role": "system", "content": system}]
        return [*before, {"role": "user", "content": image + self.prompt_text.user}]

    def prompt(self, record: Record) -> Prompt:
        """The generation prompt, one image placeholder per 32 x 32 pixels; no image is opened."""
        check_image_size(record, self.settings.max_pixels)
        return self._prompt(record.source, record.width, record.height)

    def prompt_length(self, record: Record) -> int:
        """Tokens of the generation prompt, vision ones included; no image is opened."""
        return len(self._prompt_ids) - 1 + count_image_tokens(record)

    def length(self, record: Record) -> int:
        """Tokens of the encoded sample, vision ones included; no image is opened. Raises above `max_length`."""
        check_image_size(record, self.settings.max_pixels)
        return self._checked_length(record, self.sample_length(record, self.answer_length(record)))

    def sample_length(self, record: Record, answer: int) -> int:
        """Tokens of a sample whose answer takes `answer` tokens; nothing is checked."""
        return self.turn.sample_length(self.prompt_length(record), answer)

    def answer_length(self, record: Record) -> int:
        """Tokens of the record's ground truth as an answer, without its `<|im_end|>`."""
        _refuse(record, next(self.descs.findings(record.objects), None))
        return self.lengths.count(record.objects)

    def prepare(self, record: Record, image_root: Path | str | None = None) -> PreparedRecord:
        """Prompt and image of the record. `image_root` resolves its path (default: the folder of the record's file).

        Raises `ImageContractError` for an image that is missing, of another size, or that would have to be resized.
        """
        prompt = self.prompt(record)
        return PreparedRecord(
            record, prompt, read_image(record, resolve_image(record.source, record.images[0], image_root))
        )

    def ground_truth(self, record: Record) -> TypedAnswer:
        """The record's answer, rendered and tokenized once. Raises `EncodeError`, or `CoordJSONError` for a geometry of
        the wrong arity.
        """
        answer = self.answer(record)
        ids = self._tokenize(answer)
        if self.pieces.text(ids) != answer:
            _refuse(record, UNSPELLED)
        scan = scan_answer(answer)
        if tuple(found.item for found in scan.objects) != record.objects:
            raise EncodeError(f"{record.source}: the answer does not say the record's objects; its bins were changed")
        return type_ground_truth(ids, self.pieces.spans(ids), answer, scan, self.coords)

    def sample(self, record: Record, prompt: Prompt | None = None) -> EncodedSample:
        """The record with its ground truth as answer, without pixels. Raises above `max_length`."""
        sample = assemble(self.prompt(record) if prompt is None else prompt, self.ground_truth(record), self.turn)
        self._checked_length(record, len(sample))
        return sample

    def target(self, prompt: Prompt, plan: TargetPlan) -> EncodedSample:
        """A rollout, completed as `plan` says, as the answer to `prompt`; without pixels, however long.

        Raises `ClosureError` where the answer's closure is not found where it was put.
        """
        return assemble(prompt, self._targets.write(plan), self.turn)

    def target_lengths(self, prompt: Prompt, plan: TargetPlan) -> Iterator[int]:
        """Tokens of what `target` makes of `plan`, then of it with one element fewer, down to none."""
        return (self.turn.sample_length(len(prompt.ids), length) for length in self._targets.lengths(plan))

    def encode(self, record: Record, image_root: Path | str | None = None) -> EncodedSample:
        """`sample` with its pixels. Raises what `sample` and `prepare` raise."""
        sample = self.sample(record)
        pixels = self.pixels([sample], [self.prepare(record, image_root).image])
        return dataclasses.replace(sample, pixel_values=pixels)

    def blank(self) -> tuple[EncodedSample, Image.Image]:
        """A sample of no record: a grey image of one vision token, and an answer without objects."""
        text = render_answer([], self.settings.field_order)
        ids = self._tokenize(text)
        answer = type_ground_truth(ids, self.pieces.spans(ids), text, scan_answer(text), self.coords)
        prompt = self._prompt("blank", SIZE_MULTIPLE, SIZE_MULTIPLE)
        return assemble(prompt, answer, self.turn), Image.new("RGB", (SIZE_MULTIPLE, SIZE_MULTIPLE), "grey")

    def pixels(
        self,
        samples: Sequence[EncodedSample],
        images: Sequence[Image.Image],
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        """Patches float32 [P, D] of the samples' images, one image a sample, made on `device`.

        Raises `EncodeError` where they do not fill the grid that a sample's placeholders were counted from.
        """
        patches, grids = make_patches(images, self.processor.image_processor, device)
        for sample, grid in zip(samples, grids.tolist(), strict=True):
            wanted = [] if sample.image_grid_thw is None else sample.image_grid_thw.tolist()
            if wanted != [grid]:
                raise EncodeError(
                    f"{sample.sample_id}: the image became a patch grid {grid}, not {wanted}: the processor resized it"
                )
        return patches

    def _prompt(self, source: str, width: int, height: int) -> Prompt:
        at = self._prompt_ids.index(self.turn.image)
        placeholders = [self.turn.image] * (width // SIZE_MULTIPLE * (height // SIZE_MULTIPLE))
        ids = (*self._prompt_ids[:at], *placeholders, *self._prompt_ids[at + 1 :])
        return Prompt(source, ids, ((1, height // PATCH, width // PATCH),))

    def _tokenize(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def _checked_length(self, record: Record, length: int) -> int:
        _refuse(record, length_finding(record, length, self.settings.max_length))
        return length


def _refuse(record: Record, finding: Finding | None) -> None:
    """Raise `EncodeError` for a finding in the words of the record check."""
    if finding is not None:
        raise EncodeError(str(RecordProblem(record.source, finding)))


def build_encoder(processor: ProcessorMixin, config: Config | EncodeSettings) -> Encoder:
    """An encoder; raises at once for a processor that resizes or a tokenizer whose coord tokens drifted."""
    settings = config if isinstance(config, EncodeSettings) else build_settings(config)
    return Encoder(processor, settings)
