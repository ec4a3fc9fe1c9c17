"""An image reaches the model pixel for pixel, or one clear error is raised."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, ProcessorMixin, Qwen2TokenizerFast

from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.encode.encoder import Encoder, build_encoder
from coordexp.encode.errors import EncodeError
from coordexp.encode.images import ImageContractError, check_image_size
from coordexp.encode.processor import ProcessorError, build_processor, check_processor, load_processor
from coordexp.encode.settings import EncodeSettings

MakeRecord = Callable[..., Record]


def pixels_of(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Undo Qwen's patch order: float [P, 3 * 2 * 16 * 16] to uint8 [height, width, 3], both temporal halves checked."""
    grid = values.reshape(height // 32, width // 32, 2, 2, 3, 2, 16, 16)
    image = grid.transpose(5, 0, 2, 6, 1, 3, 7, 4).reshape(2, height, width, 3)
    assert np.array_equal(image[0], image[1])
    return np.rint((image[0] * 0.5 + 0.5) * 255).astype(np.uint8)


@pytest.mark.invariant("ENC-006")
@pytest.mark.parametrize(("width", "height"), [(64, 64), (128, 96), (32, 160)])
def test_every_pixel_reaches_the_model_unchanged(
    cut_encoder: Encoder, make_record: MakeRecord, width: int, height: int
) -> None:
    record = make_record((), width, height)
    sample = cut_encoder.encode(record)
    with Image.open(Path(record.source).parent / record.images[0]) as image:
        original = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels_of(sample.pixel_values.numpy(), height, width), original)
    assert sample.image_grid_thw.tolist() == [[1, height // 16, width // 16]]
    assert int(sample.mm_token_type_ids.sum()) == width * height // 1024


@pytest.mark.invariant("ENC-006")
def test_processor_that_resizes_is_refused(cut_tokenizer: Qwen2TokenizerFast) -> None:
    processor = build_processor(cut_tokenizer)
    processor.image_processor.do_resize = True
    with pytest.raises(ProcessorError, match=r'do_resize=true .* Set "do_resize": false'):
        build_encoder(processor, EncodeSettings())


@pytest.mark.invariant("ENC-006")
@pytest.mark.parametrize(("name", "value"), [("patch_size", 14), ("merge_size", 1), ("temporal_patch_size", 1)])
def test_processor_with_other_patches_is_refused(cut_tokenizer: Qwen2TokenizerFast, name: str, value: int) -> None:
    processor = build_processor(cut_tokenizer)
    setattr(processor.image_processor, name, value)
    with pytest.raises(ProcessorError, match=f"'{name}': {value}"):
        check_processor(processor)


@pytest.mark.invariant("ENC-006")
def test_saved_processor_still_leaves_pixels_alone(cut_processor: ProcessorMixin, tmp_path: Path) -> None:
    cut_processor.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).image_processor.do_resize is False
    assert load_processor(tmp_path).tokenizer.get_vocab() == cut_processor.tokenizer.get_vocab()


@pytest.mark.invariant("ENC-006")
def test_pixels_that_do_not_fill_the_samples_grid_are_noticed(cut_encoder: Encoder, make_record: MakeRecord) -> None:
    record, other = make_record((), 128, 96), make_record((), 64, 96, line=2)
    sample = cut_encoder.sample(record)
    image = cut_encoder.prepare(record).image
    assert torch.equal(cut_encoder.pixels([sample], [image]), cut_encoder.encode(record).pixel_values)
    with pytest.raises(EncodeError, match=r"patch grid \[1, 6, 4\], not \[\[1, 6, 8\]\].* resized it"):
        cut_encoder.pixels([sample], [cut_encoder.prepare(other).image])


@pytest.mark.invariant("ENC-019")
def test_samples_are_put_together_as_the_template_writes_them(
    real_encoder: Encoder, cut_encoder: Encoder, make_record: MakeRecord
) -> None:
    """ms-swift's template, given the same conversation and image, writes the same ids, grids and pixels."""
    record = make_record([CoordObject("red star", "bbox_2d", (1, 2, 30, 40))], 96, 64)
    for encoder in (real_encoder, cut_encoder):
        sample = encoder.encode(record)
        messages = [
            {"role": "user", "content": "<image>" + encoder.prompt_text.user},
            {"role": "assistant", "content": encoder.answer(record)},
        ]
        written = encoder.template.encode({"messages": messages, "images": [encoder.prepare(record).image]})
        assert [int(token) for token in written["input_ids"]] == sample.input_ids.tolist()
        assert torch.equal(written["pixel_values"].float(), sample.pixel_values)
        assert torch.equal(written["image_grid_thw"], sample.image_grid_thw)
        assert torch.equal(written["mm_token_type_ids"].flatten(), sample.mm_token_type_ids)
        labels = torch.tensor(written["labels"])
        assert torch.equal(labels[:-1], sample.labels[:-1]), "the template also labels the newline that ends the turn"


@pytest.mark.invariant("ENC-019")
def test_a_prompt_longer_than_a_row_is_told_of_the_record(
    cut_processor: ProcessorMixin, make_record: MakeRecord
) -> None:
    encoder = build_encoder(cut_processor, EncodeSettings(max_length=20))
    with pytest.raises(EncodeError, match=r"records\.jsonl:1: \d+ tokens .* exceed global_max_length = 20"):
        encoder.length(make_record((), 64, 64))
    assert encoder.template.max_length == 20


@pytest.mark.invariant("ENC-019")
@pytest.mark.parametrize("fault", ["another end", "labels on the prompt"])
def test_a_template_that_writes_otherwise_is_refused_when_an_encoder_is_built(
    cut_processor: ProcessorMixin, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    from coordexp.encode import swift_template as module

    written = module.encode_turn

    def drifted(template: object, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
        ids, labels = written(template, messages)
        return (ids[:-1], labels) if fault == "another end" else (ids, ids)

    monkeypatch.setattr(module, "encode_turn", drifted)
    with pytest.raises(EncodeError, match="did not write prompt" if fault == "another end" else "labels other tokens"):
        build_encoder(cut_processor, EncodeSettings())


@pytest.mark.invariant("ENC-007")
def test_image_above_max_pixels_is_refused_with_the_offline_command(
    cut_processor: ProcessorMixin, make_record: MakeRecord
) -> None:
    encoder = build_encoder(cut_processor, EncodeSettings(max_pixels=96 * 64))
    encoder.encode(make_record((), 96, 64))
    for call in (encoder.encode, encoder.length, encoder.prompt):
        with pytest.raises(ImageContractError) as caught:
            call(make_record((), 128, 64, line=7))
        message = str(caught.value)
        assert (
            "records.jsonl:7: images[0]: 128x64.png is 128x64 = 8192 pixels, above template.max_pixels = 6144"
            in message
        )
        assert "coordexp.entrypoints.cook --max-pixels 6144" in message


@pytest.mark.invariant("ENC-007")
@pytest.mark.parametrize(("width", "height"), [(65, 64), (64, 80), (48, 64)])
def test_side_off_the_32_pixel_grid_is_refused(
    cut_encoder: Encoder, make_record: MakeRecord, width: int, height: int
) -> None:
    with pytest.raises(ImageContractError, match=f"is {width}x{height}; both sides must be multiples of 32"):
        cut_encoder.encode(make_record((), width, height))


@pytest.mark.invariant("ENC-007")
@pytest.mark.parametrize(("width", "height"), [(32, 64), (32, 32), (8192, 8192)])
def test_size_that_the_upstream_loader_would_change_is_refused(
    make_record: MakeRecord, width: int, height: int
) -> None:
    record = dataclasses.replace(make_record(), width=width, height=height)
    with pytest.raises(ImageContractError, match=f"{width}x{height} = {width * height} pixels, .*4096 to 16777216"):
        check_image_size(record, None)


@pytest.mark.invariant("ENC-007")
def test_file_of_another_size_than_its_record_is_refused(cut_encoder: Encoder, make_record: MakeRecord) -> None:
    record = dataclasses.replace(make_record((), 96, 64), width=64)
    with pytest.raises(ImageContractError, match=r"records\.jsonl:1: .* has 96x64 pixels, .* declared as 64x64"):
        cut_encoder.encode(record)


@pytest.mark.invariant("ENC-007")
@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "does not exist"), (b"not an image", "is text and no picture")],
    ids=["missing", "broken"],
)
def test_unreadable_image_is_named(
    cut_encoder: Encoder, make_record: MakeRecord, tmp_path: Path, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "64x64.png").write_bytes(content)
    with pytest.raises(ImageContractError, match=rf"records\.jsonl:1: \S*64x64\.png {says}"):
        cut_encoder.encode(make_record(), image_root=tmp_path)


@pytest.mark.invariant("ENC-007")
@pytest.mark.parametrize("images", [(), ("a.png", "b.png")])
def test_record_with_another_number_of_images_is_refused(
    cut_encoder: Encoder, make_record: MakeRecord, images: tuple[str, ...]
) -> None:
    with pytest.raises(ImageContractError, match=f"{len(images)} images; .* one image a record"):
        cut_encoder.length(dataclasses.replace(make_record(), images=images))
