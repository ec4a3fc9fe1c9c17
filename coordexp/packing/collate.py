"""Encoded samples in, one `PackedBatch` out: side by side in one row, or padded to a row each.

Contract ids: PACK-007..PACK-009, PACK-011..PACK-015. Samples keep the order they come in, in tokens, images and
segments alike.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from coordexp.encode.types import IGNORE_INDEX, EncodedSample, ObjectSlots, TokenSubset, TokenType
from coordexp.packing.positions import RopeFunction, four_row_positions
from coordexp.packing.types import PackedBatch, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

TOKEN_FIELDS = ("input_ids", "labels", "token_types", "subsets", "mm_token_type_ids")


def collate_packed(samples: Sequence[EncodedSample], rope: RopeFunction) -> PackedBatch:
    """One row of all samples, B = 1, T = the sum of their lengths (AUDIT-5.1, AUDIT-5.2).

    There is no attention mask: a mask, even of ones, makes transformers ignore the text row, and samples attend to
    each other. Raises ValueError for an empty list, a coord token at position 0, or images that do not match their
    grids.
    """
    check_samples(samples)
    tokens = {name: torch.cat([token_field(sample, name) for sample in samples])[None] for name in TOKEN_FIELDS}
    positions = torch.cat([four_row_positions(sample, rope) for sample in samples], dim=1)[:, None]
    segments, objects, start = [], [], 0
    for sample in samples:
        segments.append(Segment(sample.sample_id, 0, start, start + len(sample), sample.prompt_length))
        objects += [place_slots(slots, 0, start) for slots in sample.objects]
        start += len(sample)
    return PackedBatch(
        **tokens, position_ids=positions, segments=tuple(segments), objects=tuple(objects), **image_fields(samples)
    )


def collate_padded(samples: Sequence[EncodedSample], rope: RopeFunction, pad_id: int) -> PackedBatch:
    """A row per sample, padded on the right to the longest, with the attention mask that says so.

    Padding is `pad_id` with label IGNORE_INDEX, type OTHER, subset NONE and position 0. Raises like `collate_packed`.
    """
    check_samples(samples)
    width = max(len(sample) for sample in samples)
    padding = {
        "input_ids": pad_id,
        "labels": IGNORE_INDEX,
        "token_types": int(TokenType.OTHER),
        "subsets": int(TokenSubset.NONE),
        "mm_token_type_ids": 0,
    }
    tokens = {
        name: torch.stack([pad_right(token_field(sample, name), width, padding[name]) for sample in samples])
        for name in TOKEN_FIELDS
    }
    positions = torch.stack([pad_right(four_row_positions(sample, rope), width, 0) for sample in samples], dim=1)
    mask = torch.stack([pad_right(torch.ones(len(sample), dtype=torch.long), width, 0) for sample in samples])
    segments = tuple(
        Segment(sample.sample_id, row, 0, len(sample), sample.prompt_length) for row, sample in enumerate(samples)
    )
    objects = tuple(place_slots(slots, row, 0) for row, sample in enumerate(samples) for slots in sample.objects)
    return PackedBatch(
        **tokens,
        position_ids=positions,
        segments=segments,
        objects=objects,
        attention_mask=mask,
        **image_fields(samples),
    )


def token_field(sample: EncodedSample, name: str) -> torch.Tensor:
    """int64 [T] of one field; the first label is ignored, because what precedes it belongs to another sample."""
    values: torch.Tensor = getattr(sample, name)
    if name == "labels":
        values = values.clone()
        values[0] = IGNORE_INDEX
    return values


def place_slots(slots: ObjectSlots, row: int, start: int) -> ObjectSlots:
    """The slots of an object of a sample that begins at token `start` of `row`."""
    return dataclasses.replace(slots, row=row, positions=tuple(start + position for position in slots.positions))


def pad_right(values: torch.Tensor, width: int, fill: int) -> torch.Tensor:
    """[..., T] → [..., width] with `fill` behind."""
    return torch.nn.functional.pad(values, (0, width - values.shape[-1]), value=fill)


def image_fields(samples: Sequence[EncodedSample]) -> dict[str, torch.Tensor | None]:
    """Patches and grids of all samples in order, each None when no sample has any.

    Pixels may come later (`PackedBatch.with_pixels`), so grids may stand alone, for all samples or for none.
    """
    pixels = [sample.pixel_values for sample in samples if sample.pixel_values is not None]
    grids = [sample.image_grid_thw for sample in samples if sample.image_grid_thw is not None]
    if pixels and len(pixels) != len(grids):
        raise ValueError("some samples of the batch have their pixels and some do not; make them for all or for none")
    return {
        "pixel_values": torch.cat(pixels) if pixels else None,
        "image_grid_thw": torch.cat(grids) if grids else None,
    }


def check_samples(samples: Sequence[EncodedSample]) -> Sequence[EncodedSample]:
    """Return the samples when each can stand in a row, or raise ValueError naming the sample and the field."""
    if not samples:
        raise ValueError("a batch needs at least one sample")
    for sample in samples:
        check_sample(sample)
    return samples


def check_sample(sample: EncodedSample) -> EncodedSample:
    """Return the sample when its fields are as long, its patches match its grids, and its slots can be predicted."""
    where = f"sample {sample.sample_id}"
    for name in TOKEN_FIELDS:
        values = getattr(sample, name)
        if values.shape != (len(sample),):
            raise ValueError(f"{where}: {name} has shape {tuple(values.shape)}; input_ids has {len(sample)} tokens")
    if sample.pixel_values is not None and sample.image_grid_thw is None:
        raise ValueError(f"{where}: pixel_values without image_grid_thw, which says how the patches lie")
    if sample.pixel_values is not None and sample.image_grid_thw is not None:
        patches = int(sample.image_grid_thw.prod(-1).sum())
        if patches != sample.pixel_values.shape[0]:
            raise ValueError(
                f"{where}: {sample.pixel_values.shape[0]} patches in pixel_values, but image_grid_thw counts {patches}"
            )
    for slots in sample.objects:
        if not all(0 < position < len(sample) for position in slots.positions):
            raise ValueError(
                f"{where}: coord slots at {slots.positions}; a slot is predicted from the token before it, "
                f"so it lies in 1..{len(sample) - 1}"
            )
    return sample
