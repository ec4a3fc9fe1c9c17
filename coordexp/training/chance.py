"""`training.seed` in, the process's random streams seeded. Contract ids: TRAIN-007."""

from __future__ import annotations

import random

import numpy as np
import torch

from coordexp.data.seeds import derive_seed


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch from `training.seed` alone (AUDIT-3.7)."""
    random.seed(derive_seed(seed, "python"))
    np.random.seed(derive_seed(seed, "numpy") % 2**32)
    torch.manual_seed(derive_seed(seed, "torch"))
