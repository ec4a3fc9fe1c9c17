"""The length gate, the batch plan and left padding, without a model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coordexp.rollout.batching import check_length_budget, left_pad, plan_batches
from coordexp.rollout.types import RolloutError, RolloutRequest


def request_of(length: int) -> RolloutRequest:
    return RolloutRequest(f"prompt of {length}", tuple(range(length)))


@pytest.mark.invariant("ROLL-001")
def test_the_refusal_says_what_to_change():
    with pytest.raises(RolloutError, match="lower max_new_tokens to 6 or less"):
        check_length_budget([request_of(4)], 7, 10)
    with pytest.raises(RolloutError, match="sample prompt of 4: prompt of 4 tokens"):
        check_length_budget([request_of(2), request_of(4), request_of(3)], 7, 10)
    with pytest.raises(RolloutError, match="shorten the prompt or cook smaller images"):
        check_length_budget([request_of(10)], 1, 10)
    with pytest.raises(RolloutError, match="max_new_tokens must be at least 1, got 0"):
        check_length_budget([request_of(4)], 0, 10)
    with pytest.raises(RolloutError, match="sample prompt of 0: the prompt is empty"):
        check_length_budget([request_of(0)], 1, 10)


@pytest.mark.invariant("ROLL-001")
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 30), st.integers(1, 60))
def test_the_budget_is_prompt_plus_answer_within_the_positions(lengths, new_tokens, positions):
    requests = [request_of(length) for length in lengths]
    if max(lengths) + new_tokens <= positions:
        assert check_length_budget(requests, new_tokens, positions) is requests
    else:
        with pytest.raises(RolloutError, match=f"prompt of {max(lengths)} tokens .* exceeds"):
            check_length_budget(requests, new_tokens, positions)


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(1, 7))
def test_every_request_is_in_one_batch_of_bounded_size_with_similar_lengths(lengths, size):
    batches = plan_batches(lengths, size)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) <= size for batch in batches)
    assert [lengths[i] for batch in batches for i in batch] == sorted(lengths, reverse=True)


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(RolloutError, match="decode_batch_size must be at least 1, got 0"):
        plan_batches([1, 2], 0)


@pytest.mark.invariant("ROLL-002")
def test_rows_are_flush_right_and_the_mask_covers_them_alone():
    ids, mask = left_pad([[1, 2, 3], [4]], pad_id=9)
    assert torch.equal(ids, torch.tensor([[1, 2, 3], [9, 9, 4]]))
    assert torch.equal(mask, torch.tensor([[1, 1, 1], [0, 0, 1]]))
