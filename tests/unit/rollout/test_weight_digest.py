"""A digest of pushed weights: equal for equal bits in any order, other for one bit, two swapped numbers, a name."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coordexp.rollout.weight_digest import WeightDigest, fingerprint

BITS = 1 << 64
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]
CHUNK = 8 << 20
"""Bytes that are mixed at once."""


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "embed.weight": torch.randn(33, 8, generator=generator),
        "proj.weight": torch.randn(16, 8, generator=generator).to(torch.bfloat16),
        "proj.bias": torch.randn(5, generator=generator).to(torch.bfloat16),
        "scale": torch.tensor(1.5),
        "empty": torch.zeros(0, 4),
    }


def digest(tensors: dict[str, torch.Tensor]) -> str:
    told = WeightDigest()
    for name, tensor in tensors.items():
        told.add(name, tensor)
    return told.hexdigest()


def by_hand(raw: bytes) -> int:
    """The mixed sum in Python's integers."""
    raw += bytes(-len(raw) % 8)
    total = 0
    for place, word in enumerate(np.frombuffer(raw, "<u8").tolist(), 1):
        mixed = word ^ (place * 0x9E3779B97F4A7C15 % BITS)
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            mixed = (mixed ^ mixed >> 33) * factor % BITS
        total += mixed ^ mixed >> 33
    return (total + BITS // 2) % BITS - BITS // 2


@pytest.mark.invariant("FWD-023")
def test_equal_weights_have_one_digest_in_any_order():
    told = digest(weights())
    assert len(told) == 64
    for names in itertools.permutations(weights()):
        assert digest({name: weights()[name] for name in names}) == told


@pytest.mark.invariant("FWD-023")
@given(st.binary(max_size=200))
def test_the_number_of_a_tensor_is_the_one_that_integers_give(raw):
    tensor = torch.tensor(list(raw), dtype=torch.uint8)
    assert int(fingerprint(tensor)) == by_hand(raw)


@pytest.mark.invariant("FWD-023")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
def test_every_bit_anywhere_is_noticed(dtype):
    tensor = torch.arange(13).to(dtype)
    told = {digest({"w": tensor})}
    size = tensor.numel() * tensor.element_size()
    for byte in range(size):
        for bit in range(8):
            changed = tensor.clone()
            changed.view(torch.uint8)[byte] ^= 1 << bit
            told.add(digest({"w": changed}))
    assert len(told) == size * 8 + 1


@pytest.mark.invariant("FWD-023")
@pytest.mark.parametrize("place", [0, 1, CHUNK - 1, CHUNK, CHUNK + 8, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 2])
def test_a_bit_in_any_chunk_is_noticed(place):
    tensor = torch.zeros(2 * CHUNK + 3, dtype=torch.uint8)
    before = int(fingerprint(tensor))
    tensor[place] = 1
    assert int(fingerprint(tensor)) != before


@pytest.mark.invariant("FWD-023")
def test_any_two_numbers_that_change_places_are_noticed():
    tensor = torch.arange(24, dtype=torch.bfloat16)
    told = {digest({"w": tensor})}
    pairs = list(itertools.combinations(range(24), 2))
    for first, second in pairs:
        changed = tensor.clone()
        changed[[first, second]] = changed[[second, first]]
        told.add(digest({"w": changed}))
    assert len(told) == len(pairs) + 1


@pytest.mark.invariant("FWD-023")
def test_rows_and_whole_chunks_that_change_places_are_noticed():
    tensor = weights()["embed.weight"]
    swapped = tensor.clone()
    swapped[[3, 20]] = swapped[[20, 3]]
    assert digest({"w": swapped}) != digest({"w": tensor})
    halves = torch.cat([torch.zeros(CHUNK, dtype=torch.uint8), torch.ones(CHUNK, dtype=torch.uint8)])
    assert int(fingerprint(halves.flip(0))) != int(fingerprint(halves))


@pytest.mark.invariant("FWD-023")
def test_two_tensors_that_change_names_are_noticed():
    told = weights()
    told["a"], told["b"] = torch.ones(4), torch.zeros(4)
    assert digest(told | {"a": told["b"], "b": told["a"]}) != digest(told)


@pytest.mark.invariant("FWD-023")
def test_a_missing_a_renamed_and_a_further_tensor_are_noticed():
    told = weights()
    others = [{key: value for key, value in told.items() if key != name} for name in told]
    others += [{f"{key}s" if key == name else key: value for key, value in told.items()} for name in told]
    others += [told | {"more": torch.zeros(0)}]
    assert len({digest(found) for found in [told, *others]}) == 2 * len(told) + 2


@pytest.mark.invariant("FWD-023")
def test_zeros_of_another_sign_type_and_shape_are_noticed():
    same_bits = [torch.zeros(4, 6), -torch.zeros(4, 6), torch.zeros(6, 4), torch.zeros(24), torch.zeros(4, 5)]
    same_bits += [torch.zeros(4, 6, dtype=torch.bfloat16), torch.zeros(4, 6, dtype=torch.int32)]
    assert len({digest({"w": tensor}) for tensor in same_bits}) == len(same_bits)


@pytest.mark.invariant("FWD-023")
def test_not_a_number_has_bits_too():
    one, other = torch.full((3,), float("nan")), torch.full((3,), float("nan"))
    other.view(torch.int32)[1] ^= 1
    assert digest({"w": one}) == digest({"w": one.clone()}) != digest({"w": other})


@pytest.mark.invariant("FWD-023")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_view_has_the_digest_of_its_copy(dtype):
    tensor = torch.arange(70).reshape(7, 10).to(dtype)
    for view in (tensor.T, tensor[1:], tensor[:, 1:4], tensor[::2], tensor.flatten()[3:], tensor[2, 3]):
        assert digest({"w": view}) == digest({"w": view.clone().contiguous()})
    kept = tensor.clone()
    digest({"w": torch.nn.Parameter(tensor, requires_grad=False)})
    assert torch.equal(tensor, kept)


@pytest.mark.invariant("FWD-023")
def test_tensors_and_bytes_are_counted_and_a_name_is_taken_once():
    told = WeightDigest()
    for name, tensor in weights().items():
        told.add(name, tensor)
    assert (told.count, told.bytes) == (5, 33 * 8 * 4 + 16 * 8 * 2 + 5 * 2 + 4)
    with pytest.raises(ValueError, match=r"proj\.bias is pushed twice"):
        told.add("proj.bias", torch.zeros(5))
    assert told.count == 5
    assert told.hexdigest() == digest(weights())


@pytest.mark.invariant("FWD-023")
def test_no_two_of_many_changed_tensors_share_a_digest():
    """Sums alone collide here: each differs from the next by numbers that cancel out."""
    chance = random.Random(1)
    base = torch.zeros(64, dtype=torch.int64)
    told = set()
    for _ in range(2000):
        changed = base.clone()
        first, second = chance.sample(range(64), 2)
        changed[first], changed[second] = 1 << chance.randrange(62), -(1 << chance.randrange(62))
        told.add((tuple(changed.tolist()), int(fingerprint(changed))))
    assert len({value for _, value in told}) == len({key for key, _ in told})


@pytest.mark.invariant("FWD-023")
def test_memory_is_bounded_by_the_chunk_and_one_number_is_kept():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        """The bytes of the largest storage that an operation returns, that of `tensor` left out."""

        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() != tensor.data_ptr():
                self.size = max(self.size, result.untyped_storage().nbytes())
            return result

    tensor = torch.zeros(3 * CHUNK + 5, dtype=torch.uint8)
    with Largest() as seen:
        value = fingerprint(tensor)
    assert CHUNK <= seen.size <= CHUNK + 8 and value.numel() == 1
