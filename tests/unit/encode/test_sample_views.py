"""The parts of a rollout's target, read off its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import pytest
from transformers import Qwen2TokenizerFast

from coordexp.coordjson import FieldOrder, render_answer, render_object
from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.encode.encoder import Encoder
from coordexp.encode.types import EncodedSample, ObjectSlots, TokenSubset
from coordexp.encode.views import view_rollout
from tests.unit.encode.target_kit import TargetKit, build_kit

CAT = CoordObject("black cat", "bbox_2d", (1, 2, 3, 4))
DOG = CoordObject("dog", "bbox_2d", (11, 12, 13, 14))
COW = CoordObject("red cow.", "bbox_2d", (21, 22, 23, 24))


@pytest.fixture(scope="module")
def kit(real_tokenizer: Qwen2TokenizerFast) -> TargetKit:
    return build_kit(real_tokenizer)


def sample_of(
    kit: TargetKit, text: str, truths: Sequence[CoordObject], pairs: dict[int, int], order: FieldOrder = "desc_first"
) -> EncodedSample:
    return kit.sample(kit.write(kit.encode(text), truths, pairs, order))


def pieces(kit: TargetKit, sample: EncodedSample, start: int, positions: Sequence[int]) -> list[str]:
    return [kit.pieces.text([int(sample.input_ids[start + at])]) for at in positions]


@pytest.mark.invariant("TGT-011")
def test_prefix_and_tail_meet_behind_the_seam(kit: TargetKit) -> None:
    sample = sample_of(kit, render_answer([DOG, CAT]), [CAT, COW], {1: 0})
    view = view_rollout(sample)
    assert (view.prompt_len, sample.prompt_length) == (3, 3)
    start, tail = view.prompt_len, view.prompt_len + view.prefix_len
    assert pieces(kit, sample, tail, [-1, 0, 1]) == ["]},", ' {"', "desc"]
    assert pieces(kit, sample, start, [view.train_len - 1]) == ["<|im_end|>"]
    matched = ["desc", '":', ' "', '",', ' "', "bbox", "_", "2", "d", '":', " [", *[",", " "] * 3, "]},"]
    assert pieces(kit, sample, start, view.prefix_struct_pos) == matched
    assert pieces(kit, sample, tail, view.tail_desc_pos) == ["red", " cow", '.",']


@pytest.mark.invariant("TGT-011")
def test_groups_hold_the_boxes_that_are_supervised(kit: TargetKit) -> None:
    near = CoordObject("cat", "bbox_2d", (2, 3, 4, 5))
    sample = sample_of(kit, render_answer([DOG, near]), [COW, CAT], {1: 1}, "geometry_first")
    view = view_rollout(sample)
    (prefix,), (missed,) = view.bbox_groups_prefix, view.bbox_groups_fn
    assert (prefix.bins, prefix.subset) == (CAT.bins, TokenSubset.MATCHED)
    assert pieces(kit, sample, 0, prefix.positions) == [f"<|coord_{k}|>" for k in near.bins]
    assert (missed.bins, missed.subset) == (COW.bins, TokenSubset.FN)
    assert pieces(kit, sample, 0, missed.positions) == [f"<|coord_{k}|>" for k in COW.bins]
    assert view.coord_slots == tuple(zip(prefix.positions + missed.positions, CAT.bins + COW.bins, strict=True))


@pytest.mark.invariant("TGT-011")
@pytest.mark.parametrize(
    ("text", "truths", "prefix"),
    [
        ("no container", [CAT], 0),
        ("no container", [], 0),
        ('{"objects": [', [CAT], 3),
        ('{"objects": [', [], 3),
        (f'{{"objects": [{render_object(DOG)}', [], 27),
    ],
)
def test_a_token_that_the_tail_owns_is_of_the_tail(
    kit: TargetKit, text: str, truths: list[CoordObject], prefix: int
) -> None:
    sample = sample_of(kit, text, truths, {})
    view = view_rollout(sample)
    assert view.prefix_len == prefix
    assert view.prompt_len + view.train_len == len(sample) - 1
    assert (view.prefix_struct_pos, view.bbox_groups_prefix) == ((), ())
    assert len(view.bbox_groups_fn) == len(truths)


@pytest.mark.invariant("TGT-011")
def test_polygons_are_no_boxes(kit: TargetKit) -> None:
    road = CoordObject("road", "poly", (9, 8, 7, 6, 5, 4))
    view = view_rollout(sample_of(kit, '{"objects": [', [road, CAT], {}))
    assert [item.bins for item in view.bbox_groups_fn] == [CAT.bins]


@pytest.mark.invariant("TGT-011")
def test_a_stage_1_sample_has_no_prefix_and_no_groups(
    real_encoder: Encoder, make_record: Callable[..., Record]
) -> None:
    view = view_rollout(real_encoder.sample(make_record([CAT])))
    assert (view.prefix_len, view.bbox_groups_prefix, view.bbox_groups_fn, view.coord_slots) == (0, (), (), ())


@pytest.mark.invariant("TGT-011")
def test_a_sample_stores_none_of_it() -> None:
    names = {field.name for field in fields(EncodedSample)} | {field.name for field in fields(ObjectSlots)}
    assert not names & {"prefix_len", "train_len", "prefix_struct_pos", "tail_desc_pos", "bbox_groups_prefix"}
