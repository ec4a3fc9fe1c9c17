"""The end of the process group of a run of several ranks. Contract id: TRAIN-084.

In: torch's own state; imported before the group is made. Out: no thread of the group is left. A Gloo thread that lets
go of a tensor while the interpreter ends asks for the GIL, is ended there, and aborts the process of a finished run
(pytorch issue 190489).
"""

from __future__ import annotations

import gc
from importlib import import_module

import torch.distributed as dist

# Functions of these two hold the default group of their import as a default argument. accelerate and DDP import them
# after the group was made; the group, and with it Gloo's threads, would then live until the interpreter is gone.
for _module in ("deepspeed.comm.torch", "torch.distributed.nn.functional"):
    import_module(_module)


def end_process_group() -> None:
    """End the group that several ranks share and join its threads; what used the group is to be out of scope.

    DeepSpeed's hooks keep the group, so that its threads stay, with nothing left to free.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    # A trainer and its model refer to each other: only the collector frees the reducer that holds the group.
    gc.collect()
    dist.destroy_process_group()
