"""Bounds of a packed row are those of transformers' own mask, and only a packed row has any."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen3VLTextConfig
from transformers.masking_utils import create_causal_mask

from coordexp.forward.segments import register_segments
from coordexp.packing.bounds import SegmentBounds, find_bounds

register_segments()
LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def mask_of(attn_impl: str, positions: torch.Tensor) -> SegmentBounds | torch.Tensor | None:
    """What a text model with this attention hands its layers for a row of text positions [1, T]."""
    config = Qwen3VLTextConfig(num_hidden_layers=1)
    config._attn_implementation = attn_impl
    states = torch.zeros(*positions.shape, 8)
    return create_causal_mask(config, states, attention_mask=None, past_key_values=None, position_ids=positions)


def text_row(lengths: list[int]) -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in lengths])[None]


@pytest.mark.invariant("PACK-016")
@given(LENGTHS)
def test_bounds_are_where_the_text_row_starts_again(lengths: list[int]) -> None:
    bounds = mask_of("segments", text_row(lengths))
    assert isinstance(bounds, SegmentBounds)
    assert bounds.starts.tolist() == [0, *accumulate(lengths)]
    assert (bounds.starts.dtype, bounds.longest, bounds.lengths) == (torch.int32, max(lengths), lengths)


@pytest.mark.invariant("PACK-016")
@given(LENGTHS.filter(lambda lengths: len(lengths) > 1))
def test_bounds_say_what_the_mask_of_sdpa_says(lengths: list[int]) -> None:
    bounds, mask = (mask_of(name, text_row(lengths)) for name in ("segments", "sdpa"))
    assert isinstance(bounds, SegmentBounds) and isinstance(mask, torch.Tensor)
    blocks = torch.block_diag(*(torch.ones(length, length).tril() for length in bounds.lengths))
    assert torch.equal(mask[0, 0], blocks.bool())


@pytest.mark.invariant("PACK-016")
def test_a_rule_that_shows_a_token_its_successor_has_no_bounds() -> None:
    def all_see_all(batch, head, query, key):
        return torch.ones_like(query, dtype=torch.bool)

    def second_and_third_see_each_other(batch, head, query, key):
        return (query >= key) | ((query == 1) & (key == 2))

    assert find_bounds(all_see_all, 5, "cpu") is None
    assert find_bounds(second_and_third_see_each_other, 5, "cpu") is None
    found = find_bounds(lambda batch, head, query, key: query >= key, 5, "cpu")
    assert found is not None and found.lengths == [5]
