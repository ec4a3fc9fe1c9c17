"""Let ms-swift and vLLM send weights where there is no CUDA, and let vLLM's CPU engine take them. BRIDGE-008.

Three obstacles, none of which says so: both sides broadcast over `PyNcclCommunicator`, the worker calls
`torch.cuda.synchronize`, and vLLM's CPU linear layers keep a oneDNN-packed copy of each weight from when it was loaded,
so that a later load changes nothing and the server goes on answering with the old weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from coordexp.bridges.versions import check_proven

if TYPE_CHECKING:
    from vllm.distributed.utils import StatelessProcessGroup

PROVEN_VERSIONS = {"ms-swift": "4.6.", "vllm": "0.32."}


class StoreCommunicator:
    """The members of vLLM's `PyNcclCommunicator` that sending weights uses, over the TCP store of `group`.

    The sender takes a tensor out of the store when it sends the next: upstream's own broadcast keeps each for an hour.
    """

    def __init__(self, group: StatelessProcessGroup, device: Any = None) -> None:
        self.group, self.rank, self.world_size = group, group.rank, group.world_size
        self.device = torch.device("cpu")
        self._sent = 0

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        """Send `tensor` from rank `src`; on other ranks, fill it. A barrier of the group follows each broadcast."""
        key = f"coordexp/weights/{src}/{self._sent}"
        flat = tensor.reshape(-1).view(torch.uint8)
        if self.rank == src:
            if self._sent:
                self.group.store.delete_key(f"coordexp/weights/{src}/{self._sent - 1}")
            self.group.store.set(key, flat.contiguous().numpy().tobytes())
        else:
            received = torch.frombuffer(bytearray(self.group.store.get(key)), dtype=torch.uint8)
            flat.copy_(received.view(flat.shape))
        self._sent += 1


def enable_cpu_weight_sync() -> bool:
    """Put the three in place in this process, before its engine is built; False where CUDA is available.

    Raises `ImportError` for releases other than `PROVEN_VERSIONS`.
    """
    if torch.cuda.is_available():
        return False
    check_proven(PROVEN_VERSIONS, "weight sync on a CPU")
    import vllm._custom_ops
    from swift.pipelines.infer import rollout

    rollout.PyNcclCommunicator = StoreCommunicator
    rollout.synchronize = _nothing_to_wait_for
    vllm._custom_ops._supports_onednn = False
    return True


def _nothing_to_wait_for(*_: Any, **__: Any) -> None:
    """In the place of `torch.cuda.synchronize`."""
