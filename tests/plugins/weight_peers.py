"""The server's side of a weight push, without an engine: workers that join, receive and meet, or stop before."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from threading import Thread
from typing import Any

import torch
from vllm.distributed.utils import StatelessProcessGroup

from coordexp.bridges.store_communicator import StoreCommunicator
from tests.plugins.rogue_answers import liveness
from tests.plugins.rogue_server import Behaviour, Call, says, status

JOINS, RECEIVES, NAMES_THE_BARRIER, MEETS = range(4)
DONE = says({"message": "Request received"})


class Peer:
    """One worker, in threads of this process: it goes as far as `until` in each broadcast."""

    def __init__(self, until: int = MEETS) -> None:
        self.until, self.weight_loads = until, 0
        self.received: list[tuple[list[dict[str, Any]], torch.Tensor]] = []
        self.order: list[str] = []
        self._group: Any = None

    def paths(self) -> dict[str, Behaviour | list[Behaviour]]:
        """What its app answers."""
        caches = ("/reset_prefix_cache/", "/reset_encoder_cache/", "/reset_mm_cache/", "/close_communicator/")
        return {
            "/get_world_size/": says({"world_size": 1}),
            "/init_communicator/": self._answering(self._join),
            "/update_flattened_params/": self._answering(self._receive),
            "/process_weights_after_loading/": self._answering(self._count),
            "/coordexp/liveness/": says(lambda call: liveness(weight_loads=self.weight_loads)),
            **dict.fromkeys(caches, self._answering(lambda body: None)),
        }

    def _answering(self, work: Any) -> Behaviour:
        def behave(call: Call, connection: socket.socket) -> None:
            self.order.append(call.path)
            # As ms-swift: the answer does not wait for the work.
            thread = Thread(target=work, args=(call.body,), daemon=True)
            thread.start()
            if call.path == "/process_weights_after_loading/":
                thread.join()
            DONE(call, connection)

        return behave

    def _join(self, body: Mapping[str, Any]) -> None:
        group = StatelessProcessGroup.create(body["host"], body["port"], 0, body["world_size"], store_timeout=20)
        self._group = StoreCommunicator(group)

    def _receive(self, body: Mapping[str, Any]) -> None:
        while self._group is None:
            pass
        communicator, rows = self._group, body["metadatas"]
        if self.until >= RECEIVES:
            flat = torch.empty(rows[-1]["end_idx"], dtype=torch.uint8)
            communicator.broadcast(flat, src=1)
            self.received.append((rows, flat))
        if self.until == NAMES_THE_BARRIER:
            communicator.group.broadcast_obj("barrier_of_the_test", src=0)
        if self.until >= MEETS:
            communicator.group.barrier(timeout=20)

    def _count(self, body: Any) -> None:
        self.weight_loads += 1


def absent() -> dict[str, Behaviour | list[Behaviour]]:
    """A server that says it joins, and does not."""
    return {
        "/get_world_size/": says({"world_size": 1}),
        "/init_communicator/": DONE,
        "/close_communicator/": DONE,
        "/coordexp/liveness/": says(liveness()),
        "/update_flattened_params/": status(500),
    }
