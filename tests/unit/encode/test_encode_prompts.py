"""The prompt's wording, its tokens, and lengths known without an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from transformers import ProcessorMixin, Qwen2TokenizerFast

from coordexp.coords.types import CoordObject
from coordexp.coords.vocab import build_coord_vocab
from coordexp.data.types import Record
from coordexp.encode.encoder import Encoder, build_encoder
from coordexp.encode.errors import EncodeError
from coordexp.encode.processor import CHAT_TEMPLATE
from coordexp.encode.prompts import COCO_80, ORDERINGS, VARIANTS, render_prompt
from coordexp.encode.settings import EncodeSettings

CAT = CoordObject("black cat.", "bbox_2d", (1, 2, 3, 4))
MakeRecord = Callable[..., Record]


@pytest.mark.invariant("ENC-011")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("ordering", ORDERINGS)
def test_prompt_names_the_fields_in_their_order(variant: str, ordering: str) -> None:
    desc_first = render_prompt("desc_first", ordering, variant).user
    geometry_first = render_prompt("geometry_first", ordering, variant).user
    assert desc_first.index("desc") < desc_first.index("geometry")
    assert geometry_first.index("geometry") < geometry_first.index("desc")


@pytest.mark.invariant("ENC-011")
@pytest.mark.parametrize("variant", VARIANTS)
def test_prompt_names_the_order_of_the_objects(variant: str) -> None:
    assert "top to bottom, then left to right" in render_prompt("desc_first", "sorted", variant).user
    assert "in any order" in render_prompt("desc_first", "random", variant).user


@pytest.mark.invariant("ENC-011")
def test_coco_80_lists_the_eighty_classes_once() -> None:
    system = render_prompt("desc_first", "sorted", "coco_80").system
    listed = system.split("one of: ")[1].removesuffix(".").split(", ")
    assert len(listed) == len(set(listed)) == 80
    assert tuple(listed) == COCO_80
    assert listed[:2] + listed[-2:] == ["person", "bicycle", "hair drier", "toothbrush"]


@pytest.mark.invariant("ENC-011")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("box_first", "sorted", "default"),
            "object_field_order is one of desc_first, geometry_first; got 'box_first'",
        ),
        (("desc_first", "shuffled", "default"), "object_ordering is one of sorted, random; got 'shuffled'"),
        (("desc_first", "sorted", "long"), "prompt variant is one of default, coco_80; got 'long'"),
    ],
)
def test_unknown_choice_is_refused_with_the_known_ones(arguments: tuple[str, str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_prompt(*arguments)


@pytest.mark.invariant("ENC-010")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("which", ["real_processor", "cut_processor"])
def test_generation_prompt_is_the_prefix_of_the_sample(
    request: pytest.FixtureRequest, make_record: MakeRecord, which: str, variant: str
) -> None:
    encoder = build_encoder(request.getfixturevalue(which), EncodeSettings(variant=variant))
    record = make_record([CAT], 96, 64)
    sample = encoder.encode(record)
    assert sample.input_ids[: sample.prompt_length].tolist() == list(encoder.prompt(record).ids)
    assert encoder.prompt(dataclasses.replace(record, objects=())) == encoder.prompt(record)


@pytest.mark.invariant("ENC-010")
def test_prompt_text_has_the_roles_of_qwens_chat_format(real_encoder: Encoder, make_record: MakeRecord) -> None:
    text = real_encoder.pieces.text(real_encoder.prompt(make_record((), 64, 64)).ids)
    user = real_encoder.prompt_text.user
    image = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
    assert text == f"<|im_start|>user\n{image}{user}<|im_end|>\n<|im_start|>assistant\n"
    assert len(real_encoder.prompt(make_record((), 64, 64)).ids) - 4 <= 35


@pytest.mark.invariant("ENC-010")
@pytest.mark.parametrize("variant", VARIANTS)
def test_checkpoints_own_chat_template_gives_the_same_tokens(
    real_processor: ProcessorMixin, make_record: MakeRecord, variant: str
) -> None:
    """A server knows the checkpoint's jinja template only; ms-swift's rendering must be the same, answer included."""
    encoder = build_encoder(real_processor, EncodeSettings(variant=variant))
    record = make_record([CAT], 64, 64)
    user = [{"type": "image"}, {"type": "text", "text": encoder.prompt_text.user}]
    messages = [{"role": "user", "content": user}]
    if encoder.prompt_text.system is not None:
        messages.insert(0, {"role": "system", "content": encoder.prompt_text.system})
    prompt = real_processor.apply_chat_template(messages, add_generation_prompt=True)
    whole = real_processor.apply_chat_template([*messages, {"role": "assistant", "content": encoder.answer(record)}])
    expand = "<|image_pad|>" * 4
    tokenizer = real_processor.tokenizer
    assert tokenizer(prompt.replace("<|image_pad|>", expand))["input_ids"] == list(encoder.prompt(record).ids)
    assert tokenizer(whole.replace("<|image_pad|>", expand))["input_ids"] == encoder.encode(record).input_ids.tolist()


@pytest.mark.invariant("ENC-010")
def test_chat_template_travels_with_tokenizer_and_processor(
    real_processor: ProcessorMixin, real_tokenizer: Qwen2TokenizerFast
) -> None:
    assert real_processor.chat_template == real_tokenizer.chat_template == CHAT_TEMPLATE


@pytest.mark.invariant("ENC-010")
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_prompt_holds_a_coord_token(real_processor: ProcessorMixin, make_record: MakeRecord, variant: str) -> None:
    encoder = build_encoder(real_processor, EncodeSettings(variant=variant))
    coords = build_coord_vocab(real_processor.tokenizer)
    assert not [token for token in encoder.prompt(make_record()).ids if coords.bin_of(token) is not None]


@pytest.mark.invariant("ENC-008")
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 160)])
@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("which", ["real_encoder", "cut_encoder"])
def test_length_without_the_image_is_that_of_the_sample(
    request: pytest.FixtureRequest, make_record: MakeRecord, which: str, count: int, size: tuple[int, int]
) -> None:
    encoder = request.getfixturevalue(which)
    record = make_record([CAT] * count, *size)
    unopened = dataclasses.replace(record, images=("nowhere.png",))
    assert encoder.length(unopened) == len(encoder.encode(record))


@pytest.mark.invariant("ENC-009")
def test_sample_over_the_cap_raises_and_names_its_record(
    cut_processor: ProcessorMixin, cut_encoder: Encoder, make_record: MakeRecord
) -> None:
    record = make_record([CAT] * 3, 96, 64, line=12)
    length = cut_encoder.length(record)
    fits = build_encoder(cut_processor, EncodeSettings(max_length=length))
    assert len(fits.encode(record)) == length
    tight = build_encoder(cut_processor, EncodeSettings(max_length=length - 1))
    unopened = dataclasses.replace(record, images=("nowhere.png",))
    for call in (tight.length, tight.encode):
        with pytest.raises(EncodeError) as caught:
            call(unopened)
        expected = (
            f"records.jsonl:12: {length} tokens (3 objects, 6 vision tokens) exceed global_max_length = {length - 1}"
        )
        assert expected in str(caught.value)
        assert "nothing is truncated" in str(caught.value)


def test_the_coco_classes_are_eighty_names_without_line_breaks() -> None:
    from coordexp.encode.prompts import COCO_80

    assert len(set(COCO_80)) == 80
    assert {"parking meter", "tennis racket", "hot dog"} <= set(COCO_80)
    assert all(name == " ".join(name.split()) for name in COCO_80)
