"""A digest of what is pushed to a rollout server: pairs of name and tensor in, one hexadecimal text out. FWD-023.

Equal where names, types, shapes and bits are, in any order of the pairs. One number a tensor leaves the device.
"""

from __future__ import annotations

import hashlib
import json

import torch

_WORD, _CHUNK = 8, 1 << 20
"""Bytes of a word, and words that are mixed at once: 8 MiB and a few temporaries of that size."""
_STEP, _FIRST, _SECOND = -0x61C8864680B583EB, -0x00AE502812AA7333, -0x3B314601E57A13AD
"""Odd, so a product mod 2^64 can be undone: the golden ratio's bits and MurmurHash3's two, as signed numbers."""
_LOW_31 = (1 << 31) - 1


class WeightDigest:
    """Takes each pushed tensor once; `count` and `bytes` are of all so far."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self._told: dict[str, tuple[str, tuple[int, ...], torch.Tensor]] = {}

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take in one tensor; waits for no device. Raises ValueError for a name that was given before."""
        if name in self._told:
            raise ValueError(f"{name} is pushed twice; a server keeps the second, so give each weight one name")
        self._told[name] = (str(tensor.dtype), tuple(tensor.shape), fingerprint(tensor))
        self.count += 1
        self.bytes += tensor.numel() * tensor.element_size()

    def hexdigest(self) -> str:
        """64 characters. Waits for the device of each tensor."""
        told = [(name, dtype, shape, int(value)) for name, (dtype, shape, value) in sorted(self._told.items())]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@torch.no_grad()
def fingerprint(tensor: torch.Tensor) -> torch.Tensor:
    """An int64 of the tensor's bits and their places, on its device. A tensor that is not contiguous is copied there.

    Each word of eight bytes is mixed with its place by a bijection, and the sum wraps: a change inside one word is
    always seen, any other but for one in 2^64. Integer sums are the same in every order of the device.
    """
    stream = tensor.detach().reshape(-1).view(torch.uint8)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, len(stream), _CHUNK * _WORD):
        piece = stream[start : start + _CHUNK * _WORD]
        # A buffer of its own: a view of words must begin at a multiple of eight bytes and end at one.
        words = piece.new_zeros(-(-len(piece) // _WORD) * _WORD)
        words[: len(piece)] = piece
        total += _mix(words.view(torch.int64), start // _WORD).sum()
    return total


def _mix(words: torch.Tensor, first: int) -> torch.Tensor:
    """Each word with its place, scattered over 64 bits; `first` is the place of the first."""
    places = torch.arange(first + 1, first + 1 + len(words), device=words.device)
    mixed = words ^ places.mul_(_STEP)
    for factor in (_FIRST, _SECOND):
        # Shifts of signed numbers repeat the sign, which the mask takes away.
        mixed = (mixed ^ (mixed >> 33 & _LOW_31)).mul_(factor)
    return mixed ^ (mixed >> 33 & _LOW_31)
