"""Weights go over a store between two processes bit by bit, and the store holds one tensor at a time."""

from __future__ import annotations

import multiprocessing
from itertools import pairwise
from queue import Empty
from typing import TYPE_CHECKING, Any

import pytest
import torch
from vllm.distributed.utils import StatelessProcessGroup

from coordexp.bridges.store_communicator import StoreCommunicator
from tests.plugins.rogue_server import free_port

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

pytestmark = pytest.mark.timeout(120)
SENT = [
    torch.randn(3, 7),
    torch.randn(5).to(torch.bfloat16),
    torch.tensor([float("nan"), -0.0, float("inf"), 1e-45]),
    torch.randn(4, 6).t(),
    torch.randn(1_000_000),
    torch.arange(11, dtype=torch.uint8),
]


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def receive(port: int, shapes: list[Any], told: Queue[Any]) -> None:
    """Rank 0, which opens the store: what it has received, and how many keys the store then holds."""
    group = StatelessProcessGroup.create("127.0.0.1", port, 0, 2, store_timeout=30)
    communicator = StoreCommunicator(group, device="cpu")
    for shape, dtype in shapes:
        tensor = torch.empty(shape, dtype=dtype)
        communicator.broadcast(tensor, src=1)
        group.barrier(timeout=30)
        told.put((as_bytes(tensor), group.store.num_keys()))
    told.put((communicator.rank, communicator.world_size, communicator.device.type))


@pytest.mark.invariant("BRIDGE-008")
def test_tensors_arrive_bit_by_bit_and_the_store_does_not_grow() -> None:
    context, port = multiprocessing.get_context("spawn"), free_port()
    told: Queue[Any] = context.Queue()
    shapes = [(tuple(tensor.shape), tensor.dtype) for tensor in SENT]
    process = context.Process(target=receive, args=(port, shapes, told), daemon=True)
    process.start()
    try:
        group = StatelessProcessGroup.create("127.0.0.1", port, 1, 2, store_timeout=60)
        communicator = StoreCommunicator(group)
        keys = []
        for tensor in SENT:
            communicator.broadcast(tensor, src=1)
            group.barrier(timeout=30)
            received, held = told.get(timeout=60)
            assert received == as_bytes(tensor)
            keys.append(held)
        assert told.get(timeout=60) == (0, 2, "cpu")
    except Empty:
        raise AssertionError("the other side has ended") from None
    finally:
        process.join(30)
        process.kill()
    # A barrier leaves a name behind, as upstream's does for an hour.
    steps = [after - before for before, after in pairwise(keys)]
    assert max(steps[1:]) <= 1, f"a tensor that was received is taken out again: {keys}"
