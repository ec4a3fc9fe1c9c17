"""Tensors in, the same tensors in a rollout server's engine out: the wire of a weight push. ROLL-020, ROLL-029.

The server's first worker opens a store at `group_port`, the learner joins it with the highest rank and broadcasts
buckets of bytes that the server has been told to expect. What a worker fails at it does not tell: `canary` finds out.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from coordexp.bridges.store_communicator import StoreCommunicator
from coordexp.rollout.wire import RolloutServerError

if TYPE_CHECKING:
    from coordexp.rollout.wire import ServerConnection

_STEP_SHARE = 0.75
_ALIGNED = 8
_POLL_S = 1.0
BUCKET_BYTES = 256 * 2**20
CACHES = ("/reset_prefix_cache/", "/reset_encoder_cache/", "/reset_mm_cache/")
"""What holds results of the old weights: of prompt beginnings, of the vision tower, of processed images."""


class WeightLink:
    """The group of one server's workers and this process, over which weights travel. `device` is where they lie."""

    def __init__(self, connection: ServerConnection, group_port: int, device: torch.device) -> None:
        # Imported here: it takes seconds, which are no part of a push; where it is missing, no run begins.
        from vllm.distributed.utils import StatelessProcessGroup

        self._groups: Any = StatelessProcessGroup
        self._connection, self._port, self._device = connection, group_port, device
        self._communicator: Any = None

    def open(self) -> None:
        """Meet the server's workers; nothing to do where that is done."""
        if self._communicator is not None:
            return
        server = self._connection
        workers = int(server.call("/get_world_size/")["world_size"])
        body = {"host": server.host, "port": self._port, "world_size": workers + 1}
        # A group that an earlier learner has left behind would keep this one out.
        server.call("/close_communicator/")
        server.call("/init_communicator/", body)
        with self._naming("cannot be joined"):
            self._wait_for_workers()
            group = self._groups.create(server.host, self._port, workers, workers + 1, store_timeout=self._patience())
            self._communicator = _communicator(group, self._device)

    def push(self, bucket: list[tuple[str, torch.Tensor]]) -> None:
        """Send tensors under their names in a checkpoint, for the server to load."""
        rows, flat = flatten(bucket)
        self._connection.call("/update_flattened_params/", {"metadatas": rows})
        communicator = self._communicator
        with self._naming("broke in the middle of a broadcast"):
            communicator.broadcast(flat.to(communicator.device), src=communicator.rank)
            if communicator.device.type == "cuda":
                torch.cuda.synchronize(communicator.device)
            communicator.group.barrier(timeout=self._patience())

    def _wait_for_workers(self) -> None:
        """Return when the first worker's store listens: the store's own client takes thrice its limit to give up."""
        deadline = time.monotonic() + self._patience()
        while True:
            try:
                socket.create_connection((self._connection.host, self._port), timeout=_POLL_S).close()
            except OSError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_POLL_S / 10)
            else:
                return

    def _patience(self) -> int:
        """Seconds for one step of a push: fewer than for all of it, so that the step which hangs is named."""
        return max(int(_STEP_SHARE * self._connection.timeout_s), 1)

    @contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        """Errors of the store and of NCCL, as one of a rollout server's."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            text = " ".join(str(error).split())
            raise RolloutServerError(
                f"{self._connection.base_url}: the group of the weight push at port {self._port} {what} ({text}): "
                "the server has ended, or another learner has taken it over, or the port (vllm.server.servers[]"
                ".group_port) is not free; its log has more"
            ) from error

    def finish(self) -> None:
        """After the last tensor: have kernels' layouts made again and every cache of the old weights forgotten."""
        for path in ("/process_weights_after_loading/", *CACHES):
            self._connection.call(path)


def _communicator(group: Any, device: torch.device) -> Any:
    if device.type != "cuda":
        return StoreCommunicator(group)
    from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator

    return PyNcclCommunicator(group, device=device)


def fill_buckets(
    weights: Iterable[tuple[str, torch.Tensor]], limit: int = BUCKET_BYTES
) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Weights in their order, in groups of at most `limit` bytes; a larger one goes alone."""
    bucket: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, tensor in weights:
        if bucket and size + tensor.nbytes > limit:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, tensor))
        size += tensor.nbytes
    if bucket:
        yield bucket


def flatten(bucket: list[tuple[str, torch.Tensor]]) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """Rows of `http/update-weights` and the bucket's bytes, uint8 [N]. Each tensor begins at a multiple of 8 bytes, so
    that it can be read in its own type where it lies.
    """
    rows, parts, start = [], [], 0
    for name, tensor in bucket:
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        gap = -start % _ALIGNED
        start += gap
        end = start + flat.numel()
        row = {"name": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype)}
        rows.append({**row, "start_idx": start, "end_idx": end, "numel": flat.numel()})
        parts += [flat.new_zeros(gap), flat]
        start = end
    return rows, torch.cat(parts)
