"""Which seed draws which answer. In: `training.seed`, the step, a request's index; out: seeds in [1, 2^31 - 1].

An answer's seed depends on nothing else: not on the batch, the rank or the server that it falls to. 0 is never a seed:
a falsy one is dropped on its way through a server. Contract ids: ROLL-008.
"""

from __future__ import annotations

from coordexp.data.seeds import derive_seed

_STRIDE = 1000003
_MASK = 0x7FFFFFFF
LARGEST_SEED = 2**31 - 1


def rollout_seed_base(training_seed: int, global_step: int) -> int:
    """Base of the seeds of one optimizer step's rollouts, in 0..2^31-1."""
    return (training_seed + global_step * _STRIDE) & _MASK


def evaluation_seed_base(training_seed: int) -> int:
    """Base of the seeds of every evaluation of a run: the same at each step, so that evaluations can be compared."""
    return derive_seed(training_seed, "rollout_evaluation") & _MASK


def request_seed(base: int, index: int) -> int:
    """Seed of the request at `index` among all of its step, in [1, 2^31 - 1]."""
    return (base + index - 1) % LARGEST_SEED + 1
