"""What training would refuse in a record, found beforehand in the words of the encoder that would refuse it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from qwen_vl_utils import vision_process
from transformers import ProcessorMixin

from coordexp.coords.types import CoordObject
from coordexp.data.errors import RecordError
from coordexp.data.image_sizes import size_finding
from coordexp.data.types import Record
from coordexp.encode import images
from coordexp.encode.answer_length import AnswerLengths
from coordexp.encode.encoder import Encoder, build_encoder
from coordexp.encode.errors import EncodeError
from coordexp.encode.images import ImageContractError
from coordexp.encode.processor import MERGE, PATCH
from coordexp.encode.record_check import DescCheck, check_images, find_refusals
from coordexp.encode.settings import EncodeSettings
from coordexp.geometry.resize import MAX_ASPECT, MAX_IMAGE_TOKENS, MIN_IMAGE_TOKENS, SIZE_MULTIPLE

MakeRecord = Callable[..., Record]
LIMIT = 120


def boxes(*descs: str) -> list[CoordObject]:
    return [CoordObject(desc, "bbox_2d", (1, 2, 30, 40)) for desc in descs]


@pytest.fixture(scope="module")
def narrow(real_processor: ProcessorMixin) -> Encoder:
    return build_encoder(real_processor, EncodeSettings(max_length=LIMIT, max_pixels=96 * 96))


FAULTS: dict[str, tuple[list[CoordObject], tuple[int, int], list[str]]] = {
    "in order": (boxes("cat"), (96, 96), []),
    "no objects": ([], (64, 64), []),
    "a very long image": (boxes("cat"), (6592, 32), ["image_aspect", "sample_length"]),
    "off the grid": (boxes("cat"), (100, 64), ["image_multiple"]),
    "two vision tokens": (boxes("cat"), (64, 32), ["image_area"]),
    "above max_pixels": (boxes("cat"), (128, 96), ["image_max_pixels"]),
    "a tag of the template": (boxes("cat", "<image> icon"), (64, 64), ["desc_special_token"]),
    "a token of the tokenizer": (boxes("<|im_end|>"), (64, 64), ["desc_special_token"]),
    "not composed": (boxes("cafe\u0301"), (64, 64), ["desc_not_nfc"]),
    "a line break": (boxes("red\nsquare"), (64, 64), ["desc_control"]),
    "too many objects": (boxes(*["cat"] * 9), (64, 64), ["sample_length"]),
    "everything at once": (
        boxes("cat", "<bbox>", " ", *["cat"] * 9),
        (128, 96),
        ["image_max_pixels", "desc_special_token", "desc_empty", "sample_length"],
    ),
}


@pytest.mark.invariant("ENC-031")
@pytest.mark.parametrize("case", FAULTS)
def test_each_refusal_of_the_encoder_is_found_first(narrow: Encoder, make_record: MakeRecord, case: str) -> None:
    objects, (width, height), rules = FAULTS[case]
    record = dataclasses.replace(make_record(objects, line=7), width=width, height=height)
    problems = find_refusals(narrow, [record], boxes_only=False)
    assert [problem.rule for problem in problems] == rules
    if not rules:
        narrow.length(record), narrow.sample(record)
        return
    for call in (narrow.length, narrow.sample):
        with pytest.raises((EncodeError, ImageContractError)) as refused:
            call(record)
        assert str(refused.value) == str(problems[0]) and str(refused.value).startswith(f"{record.source}: ")


@pytest.mark.invariant("ENC-031")
def test_every_record_is_judged_and_one_that_is_drawn_twice_once(narrow: Encoder, make_record: MakeRecord) -> None:
    good, bad = make_record(boxes("cat")), make_record(boxes("<think>"), line=2)
    polygon = make_record([CoordObject("cat", "poly", (1, 2, 30, 40, 5, 6))], line=3)
    seen: list[None] = []
    records = [good, bad, bad, polygon]
    problems = find_refusals(narrow, records, boxes_only=True, on_record=lambda: seen.append(None))
    assert [(problem.where, problem.rule) for problem in problems] == [
        (bad.source, "desc_special_token"),
        (polygon.source, "stage2_boxes_only"),
    ]
    assert len(seen) == 3
    assert [problem.where for problem in find_refusals(narrow, records, boxes_only=False)] == [bad.source]


@pytest.mark.invariant("ENC-031")
def test_a_token_that_only_this_tokenizer_has_is_found() -> None:
    check = DescCheck(["<|im_end|>", "[OBJ]"])
    found = [finding for _ in range(2) for finding in check.findings(boxes("cat", "an [OBJ] here", "a <|im_end|>"))]
    assert [(finding.pointer, finding.rule) for finding in found] == [
        ("objects[1].desc", "desc_special_token"),
        ("objects[2].desc", "desc_special_token"),
    ] * 2
    assert "'[OBJ]'" in found[0].message


@pytest.mark.invariant("ENC-031")
def test_texts_that_are_not_spelled_back_are_found(narrow: Encoder, make_record: MakeRecord) -> None:
    """No accepted text is known that a tokenizer rewrites, so the tokenizer is one that does."""
    encoder = build_encoder(narrow.processor, narrow.settings)

    def rewriting(texts: str | list[str], **options: object) -> object:
        changed = (
            texts.replace("cat", "dog") if isinstance(texts, str) else [text.replace("cat", "dog") for text in texts]
        )
        return narrow.tokenizer(changed, **options)

    encoder.lengths = AnswerLengths(rewriting, encoder.pieces, "desc_first")
    records = [make_record(boxes("dog", "cat")), make_record(boxes("dog"), line=2)]
    (problem,) = find_refusals(encoder, records, boxes_only=False)
    assert (problem.where, problem.rule) == (records[0].source, "answer_not_spelled")


@pytest.mark.invariant("ENC-031")
def test_a_generation_asks_of_the_image_alone(narrow: Encoder, make_record: MakeRecord) -> None:
    many = make_record(boxes(*["cat"] * 9))
    check_images(narrow, [many])
    long = dataclasses.replace(make_record(line=2), width=6592, height=32)
    with pytest.raises(
        RecordError, match=rf"^{long.source}: images\[0\]: .* 6592x32, and the processor takes no image"
    ):
        check_images(narrow, [many, long])
    with pytest.raises(ImageContractError, match="6592x32, and the processor takes no image"):
        narrow.prompt(long)


@pytest.mark.invariant("DATA-060")
def test_the_rule_of_sizes_is_that_of_the_upstream_loader() -> None:
    assert (MIN_IMAGE_TOKENS, MAX_IMAGE_TOKENS) == (
        vision_process.IMAGE_MIN_TOKEN_NUM,
        vision_process.IMAGE_MAX_TOKEN_NUM,
    )
    assert (SIZE_MULTIPLE, MAX_ASPECT) == (PATCH * MERGE, vision_process.MAX_RATIO)
    sides = [1, 16, 31, 32, 33, 48, 64, 96, 100, 128, 160, 416, 1024, 4064, 4096, 4128, 6400, 6432, 16384, 524288]
    for width in sides:
        for height in sides:
            assert (size_finding("a.png", (width, height)) is None) == taken_as_it_is(width, height), (width, height)


def taken_as_it_is(width: int, height: int) -> bool:
    try:
        return images.upstream_size(width, height) == (width, height)
    except ValueError:
        return False


@pytest.mark.invariant("DATA-060")
def test_bounds_that_the_environment_moved_are_named(
    narrow: Encoder, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision_process, "IMAGE_MIN_TOKEN_NUM", 16)
    record = make_record(boxes("cat"))
    (problem,) = find_refusals(narrow, [record], boxes_only=False)
    assert problem.rule == "image_upstream" and "64x64, which ms-swift would resize to 128x128" in str(problem)
    with pytest.raises(ImageContractError) as refused:
        narrow.prompt(record)
    assert str(refused.value) == str(problem)
