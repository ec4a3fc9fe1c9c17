"""Collating: order, boundaries, offsets, what is refused, what reaches the model."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from coordexp.encode.types import IGNORE_INDEX, ObjectSlots, TokenSubset, TokenType
from coordexp.packing.collate import collate_packed, collate_padded
from coordexp.packing.positions import build_rope_index
from tests.plugins.tiny_qwen import FIRST_COORD, PAD, four_samples, random_sample, tiny_config

TOKEN_FIELDS = ("input_ids", "token_types", "subsets", "mm_token_type_ids")


@pytest.fixture(scope="module")
def rope():
    return build_rope_index(tiny_config())


@pytest.mark.invariant("PACK-007")
def test_tokens_images_and_segments_keep_the_order_of_the_samples(rope):
    samples = [four_samples()[place] for place in (2, 0, 3, 1)]
    batch = collate_packed(samples, rope)
    assert [segment.sample_id for segment in batch.segments] == ["sample-2", "sample-0", "sample-3", "sample-1"]
    for segment, sample in zip(batch.segments, samples, strict=True):
        assert segment.prompt_length == sample.prompt_length
        for name in TOKEN_FIELDS:
            assert torch.equal(getattr(batch, name)[0, segment.start : segment.end], getattr(sample, name))
    with_images = [sample for sample in samples if sample.pixel_values is not None]
    assert torch.equal(batch.pixel_values, torch.cat([sample.pixel_values for sample in with_images]))
    assert torch.equal(batch.image_grid_thw, torch.cat([sample.image_grid_thw for sample in with_images]))


@pytest.mark.invariant("PACK-007")
def test_a_batch_without_images_has_no_image_fields(rope):
    batch = collate_packed([random_sample(0, ()), random_sample(1, ())], rope)
    assert batch.pixel_values is None and batch.image_grid_thw is None
    assert set(batch.model_inputs()) == {"input_ids", "position_ids", "mm_token_type_ids"}


@pytest.mark.invariant("PACK-007")
@pytest.mark.parametrize("padded", [False, True])
def test_coord_slots_point_at_their_tokens_after_collating(rope, padded):
    samples = four_samples()
    batch = collate_padded(samples, rope, PAD) if padded else collate_packed(samples, rope)
    assert len(batch.objects) == 4
    for slots in batch.objects:
        assert batch.input_ids[slots.row, list(slots.positions)].tolist() == [FIRST_COORD + k for k in slots.bins]


@pytest.mark.invariant("PACK-008")
@pytest.mark.parametrize("padded", [False, True])
def test_the_first_token_of_a_segment_is_never_a_target(rope, padded):
    samples = four_samples()
    assert all(sample.labels[0] != IGNORE_INDEX for sample in samples)
    batch = collate_padded(samples, rope, PAD) if padded else collate_packed(samples, rope)
    for segment, sample in zip(batch.segments, samples, strict=True):
        found = batch.labels[segment.row, segment.start : segment.end]
        assert found[0] == IGNORE_INDEX
        assert torch.equal(found[1:], sample.labels[1:])
        assert sample.labels[0] != IGNORE_INDEX, "the sample itself is left as it was"


@pytest.mark.invariant("PACK-008")
def test_a_coord_token_at_the_start_of_a_sample_is_refused(rope):
    sample = random_sample(0, (), words=0, boxes=1)
    with pytest.raises(ValueError, match=r"sample sample-0: coord slots at \(0, 1, 2, 3\)"):
        collate_packed([sample], rope)


@pytest.mark.invariant("PACK-009")
def test_a_packed_row_has_no_attention_mask_and_a_padded_batch_has_one(rope):
    samples = four_samples()
    assert collate_packed(samples, rope).attention_mask is None
    padded = collate_padded(samples, rope, PAD)
    assert padded.attention_mask.sum(1).tolist() == [len(sample) for sample in samples]


@pytest.mark.invariant("PACK-009")
def test_padding_is_on_the_right_and_supervises_nothing(rope):
    short, long = random_sample(3, ((2, 2),), words=1, boxes=0), random_sample(1)
    batch = collate_padded([short, long], rope, PAD)
    tail = slice(len(short), None)
    assert batch.input_ids[0, tail].eq(PAD).all() and batch.labels[0, tail].eq(IGNORE_INDEX).all()
    assert batch.token_types[0, tail].eq(TokenType.OTHER).all() and batch.subsets[0, tail].eq(TokenSubset.NONE).all()
    assert batch.mm_token_type_ids[0, tail].eq(0).all() and batch.attention_mask[0, tail].eq(0).all()
    assert batch.input_ids.shape == (2, len(long)) and batch.position_ids.shape == (4, 2, len(long))


@pytest.mark.invariant("PACK-009")
def test_labels_and_other_extras_are_not_model_inputs(rope):
    inputs = collate_padded(four_samples(), rope, PAD).model_inputs()
    assert set(inputs) == {
        "input_ids",
        "position_ids",
        "mm_token_type_ids",
        "attention_mask",
        "pixel_values",
        "image_grid_thw",
    }


@pytest.mark.invariant("PACK-007")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_grid_thw": None}, "pixel_values without image_grid_thw"),
        ({"pixel_values": torch.zeros(23, 1536)}, "23 patches in pixel_values, but image_grid_thw counts 24"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, r"labels has shape \(3,\)"),
        ({"objects": (ObjectSlots("bbox_2d", (5, 6, 7, 99), (0, 0, 1, 1)),)}, r"coord slots at \(5, 6, 7, 99\)"),
    ],
)
def test_a_sample_whose_fields_disagree_is_refused_by_name(rope, change, message):
    with pytest.raises(ValueError, match="sample sample-0: " + message):
        collate_packed([random_sample(1), dataclasses.replace(random_sample(0), **change)], rope)


@pytest.mark.invariant("PACK-007")
def test_pixels_can_come_after_the_tokens_and_must_before_the_model(rope):
    samples = [random_sample(0), random_sample(1)]
    whole = collate_packed(samples, rope)
    later = collate_packed([dataclasses.replace(sample, pixel_values=None) for sample in samples], rope)
    assert later.pixel_values is None and torch.equal(later.image_grid_thw, whole.image_grid_thw)
    with pytest.raises(ValueError, match="no pixels yet"):
        later.model_inputs()
    with pytest.raises(ValueError, match="47 patches for a batch whose image_grid_thw asks for 48"):
        later.with_pixels(whole.pixel_values[:-1])
    made = later.with_pixels(whole.pixel_values).model_inputs()
    assert made.keys() == whole.model_inputs().keys()
    assert all(torch.equal(made[name], value) for name, value in whole.model_inputs().items())
    with pytest.raises(ValueError, match="for all or for none"):
        collate_packed([samples[0], dataclasses.replace(samples[1], pixel_values=None)], rope)


@pytest.mark.invariant("PACK-007")
def test_an_empty_list_is_no_batch(rope):
    with pytest.raises(ValueError, match="at least one sample"):
        collate_packed([], rope)
    with pytest.raises(ValueError, match="at least one sample"):
        collate_padded([], rope, PAD)
