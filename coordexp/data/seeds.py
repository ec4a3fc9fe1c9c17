"""Every random stream of a run, derived from `training.seed` alone by SHA-256 and recorded by name.

Contract ids: DATA-012.
A stream is named in `STREAMS`; a stream that is not cannot be asked for, so a run's manifest lists all there are.
"""

from __future__ import annotations

import hashlib

import numpy as np

STREAMS = (
    "python",
    "numpy",
    "torch",
    "dataloader",
    "train_sample",
    "val_sample",
    "object_ordering",
    "epoch_order",
    "rollout_evaluation",
    "shapes",
)
_SEED_BITS = 63


def derive_seed(training_seed: int, stream: str, *parts: int | str) -> int:
    """Seed in 0..2^63-1 of one named stream, and of one part of it (an epoch, a sample id). Raises `ValueError`."""
    if isinstance(training_seed, bool) or not isinstance(training_seed, int) or training_seed < 0:
        raise ValueError(f"training.seed is an integer ≥ 0, got {training_seed!r}")
    if stream not in STREAMS:
        raise ValueError(f"no random stream is called {stream!r}; the streams are {', '.join(STREAMS)}")
    text = "\x1f".join(["coordexp", str(training_seed), stream, *map(str, parts)])
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)


def build_generator(training_seed: int, stream: str, *parts: int | str) -> np.random.Generator:
    """A numpy generator (PCG64) for `derive_seed(...)`."""
    return np.random.Generator(np.random.PCG64(derive_seed(training_seed, stream, *parts)))


def render_seed_record(training_seed: int) -> dict[str, int]:
    """What a run manifest records: `training_seed` and the seed of each stream."""
    return {"training_seed": training_seed, **{stream: derive_seed(training_seed, stream) for stream in STREAMS}}
