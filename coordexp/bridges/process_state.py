"""Run third-party code inside the learner's process and leave the process as it was. Contract id: BRIDGE-013.

Building an engine of vLLM seeds every generator, takes `torch.set_num_threads` away and writes environment variables;
using one may draw from the global generators. None of it may reach the learner's numbers.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

KEPT_PREFIX = "VLLM_"
"""Variables that begin so are the engine's own, which it reads as long as it lives."""


@contextmanager
def preserved_numbers() -> Iterator[None]:
    """Generators, grad mode, default type and threads are afterwards what they were before."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = {device: torch.cuda.get_rng_state(device) for device in devices}
    grad, dtype, precision = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_float32_matmul_precision()
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = set_threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        for device, state in cuda.items():
            torch.cuda.set_rng_state(state, device)


@contextmanager
def preserved_environment(given: Mapping[str, str]) -> Iterator[None]:
    """With the variables `given` inside; afterwards all are what they were, but for the engine's own."""
    before = os.environ.copy()
    os.environ.update(given)
    try:
        yield
    finally:
        settled = settle(before, os.environ.copy())
        os.environ.clear()
        os.environ.update(settled)


def settle(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """The variables of `old`, and of `new` those that begin with `KEPT_PREFIX`."""
    theirs = {name: value for name, value in old.items() if not name.startswith(KEPT_PREFIX)}
    return theirs | {name: value for name, value in new.items() if name.startswith(KEPT_PREFIX)}
