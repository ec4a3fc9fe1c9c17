"""The vision tower hands `segments` all images of a row in one call, with bounds; other names get what they got."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, Qwen3VLVisionConfig
from transformers.models.qwen3_vl import modeling_qwen3_vl
from transformers.utils.generic import is_flash_attention_requested

from coordexp.bridges.vision_bounds import SEGMENTS, bounds_requested, image_bounds, install_image_bounds
from coordexp.forward.segments import register_segments, segment_attention
from tests.plugins.tiny_qwen import random_sample, tiny_model

GRIDS = ((4, 6), (2, 2), (8, 4))
PATCHES = [height * width for height, width in GRIDS]


def features(attn_impl: str) -> list[torch.Tensor]:
    """What the vision tower makes of three images of different sizes, the deepstack layers included."""
    model, sample = tiny_model(attn_impl), random_sample(0, GRIDS)
    made = model.model.visual(sample.pixel_values, grid_thw=sample.image_grid_thw)
    return [made.last_hidden_state, made.pooler_output, *made.deepstack_features]


@contextmanager
def noted_calls() -> Iterator[list[dict[str, Any]]]:
    """While open: query's length and options of each attention under `segments`."""
    noted: list[dict[str, Any]] = []

    def noting(module: Any, query: torch.Tensor, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
        noted.append({"tokens": query.shape[2], **options})
        return segment_attention(module, query, key, value, attention_mask, **options)

    AttentionInterface.register(SEGMENTS, noting)
    try:
        yield noted
    finally:
        register_segments()


@pytest.mark.invariant("BRIDGE-006")
@torch.no_grad()
def test_all_images_reach_the_attention_in_one_call() -> None:
    model, sample = tiny_model(SEGMENTS), random_sample(0, GRIDS)
    with noted_calls() as calls:
        model.model.visual(sample.pixel_values, grid_thw=sample.image_grid_thw)
    assert len(calls) == len(model.model.visual.blocks)
    for call in calls:
        assert call["tokens"] == sum(PATCHES)
        assert call["cu_seq_lens_q"].tolist() == [0, *accumulate(PATCHES)]
        assert (call["cu_seq_lens_q"].dtype, call["max_length_q"]) == (torch.int32, max(PATCHES))


@pytest.mark.invariant("BRIDGE-006")
@torch.no_grad()
def test_images_attend_within_themselves_as_under_sdpa() -> None:
    for ours, theirs in zip(features(SEGMENTS), features("sdpa"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.invariant("BRIDGE-006")
def test_the_bridge_is_put_in_once_and_answers_for_other_names_as_upstream_does() -> None:
    for _ in range(2):
        assert install_image_bounds()
        assert modeling_qwen3_vl.is_flash_attention_requested is bounds_requested
        assert modeling_qwen3_vl.get_vision_attention_seqlens is image_bounds
    grids = torch.tensor([[1, *grid] for grid in GRIDS])
    for name in ("sdpa", "eager", "flash_attention_2", SEGMENTS):
        config = Qwen3VLVisionConfig()
        config._attn_implementation = name
        assert bounds_requested(config) is (name == SEGMENTS or is_flash_attention_requested(config))
        bounds, longest = image_bounds(grids, config)
        assert bounds.tolist() == [0, *accumulate(PATCHES)]
        assert longest == (max(PATCHES) if bounds_requested(config) else None)


@pytest.mark.invariant("BRIDGE-006")
def test_another_transformers_is_left_alone() -> None:
    assert not install_image_bounds("5.20.0")
    assert install_image_bounds("5.19.1")
