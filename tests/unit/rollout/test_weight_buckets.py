"""Tensors become buckets of bytes from which ms-swift makes the same tensors, whatever their shape, type or layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coordexp.rollout.weight_link import fill_buckets, flatten
from coordexp.spec import check

Named = list[tuple[str, torch.Tensor]]
TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.int64)
SHAPES = st.lists(st.integers(0, 5), max_size=3)


def rebuilt(bucket: Named) -> dict[str, torch.Tensor]:
    """What ms-swift's worker makes of a bucket: it takes the last row's end for the number of bytes."""
    from swift.rlhf_trainers.utils import FlattenedTensorBucket, FlattenedTensorMetadata

    rows, flat = flatten(bucket)
    check("http/update-weights", {"metadatas": rows})
    assert flat.dtype == torch.uint8 and rows[-1]["end_idx"] == len(flat)
    metadata = [FlattenedTensorMetadata(**row) for row in rows]
    return dict(FlattenedTensorBucket(metadata=metadata, flattened_tensor=flat).reconstruct_tensors())


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_rebuilt(bucket: Named) -> None:
    found = rebuilt(bucket)
    assert list(found) == [name for name, _ in bucket]
    for name, sent in bucket:
        assert (found[name].shape, found[name].dtype) == (sent.shape, sent.dtype)
        assert bits(found[name]) == bits(sent)


def named(*tensors: torch.Tensor) -> Named:
    return [(f"w{index}", tensor) for index, tensor in enumerate(tensors)]


@pytest.mark.invariant("ROLL-020")
@pytest.mark.parametrize(
    "tensors",
    [
        named(torch.randn(3, 5), torch.randn(7)),
        named(torch.randn(3, 5).to(torch.bfloat16), torch.randn(7).to(torch.bfloat16), torch.randn(2).bfloat16()),
        named(torch.tensor([float("nan"), -0.0, float("inf"), 1e-45])),
        named(torch.randn(4, 6).t(), torch.randn(8, 8)[::2, 1::3], torch.randn(5).expand(3, 5)),
        named(torch.tensor(3.5), torch.randn(1, 1, 1)),
        named(torch.randn(2), torch.zeros(0, 4), torch.randn(3)),
        named(torch.randn(2), torch.zeros(4, 0)),
        named(torch.randn(3, requires_grad=True)),
        named(torch.ones(3, dtype=torch.uint8), torch.randn(3), torch.ones(1, dtype=torch.bfloat16), torch.randn(2)),
        named(torch.ones(5, dtype=torch.bfloat16), torch.arange(3)),
    ],
    ids=["float32", "bfloat16", "odd values", "strided", "scalars", "empty", "empty last", "leaf", "mixed", "mixed 2"],
)
def test_a_bucket_is_rebuilt_bit_by_bit(tensors: Named) -> None:
    assert_rebuilt(tensors)


@pytest.mark.invariant("ROLL-020")
@given(shapes=st.lists(st.tuples(SHAPES, st.sampled_from(TYPES), st.booleans()), min_size=1, max_size=6))
def test_any_bucket_is_rebuilt(shapes: list[tuple[list[int], torch.dtype, bool]]) -> None:
    made = []
    for index, (shape, dtype, turned) in enumerate(shapes):
        tensor = (torch.arange(int(torch.Size(shape).numel())) % 120 + index).reshape(shape).to(dtype)
        made.append(tensor.permute(tuple(reversed(range(tensor.ndim)))) if turned else tensor)
    assert_rebuilt(named(*made))


@pytest.mark.invariant("ROLL-020")
@given(sizes=st.lists(st.integers(0, 60), max_size=20), limit=st.integers(1, 100))
def test_buckets_keep_order_and_size_and_an_oversize_tensor_goes_alone(sizes: list[int], limit: int) -> None:
    weights = named(*(torch.zeros(size, dtype=torch.uint8) for size in sizes))
    buckets = list(fill_buckets(iter(weights), limit))
    assert [name for bucket in buckets for name, _ in bucket] == [name for name, _ in weights]
    totals = [sum(tensor.nbytes for _, tensor in bucket) for bucket in buckets]
    for bucket, total in zip(buckets, totals, strict=True):
        assert bucket and (total <= limit or len([t for _, t in bucket if t.nbytes]) == 1)
    for number in range(1, len(buckets)):
        assert totals[number - 1] + buckets[number][0][1].nbytes > limit, "no bucket ends before it must"


@pytest.mark.invariant("ROLL-020")
def test_buckets_are_filled_one_at_a_time() -> None:
    drawn = []

    def weights():
        for index in range(6):
            drawn.append(index)
            yield str(index), torch.zeros(4)

    first = next(iter(fill_buckets(weights(), 32)))
    assert len(first) == 2 and len(drawn) == 3, "a whole second copy of the model is never held"
