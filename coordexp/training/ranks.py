"""Which process of a run speaks for it: warns, hashes, writes. In: torchrun's environment; out: a yes or no.

Contract id: TRAIN-024. Nothing heavy is imported: it is asked before anything is.
"""

from __future__ import annotations

import os


def is_first_rank() -> bool:
    """Whether this process is the first of torchrun's, or the only one."""
    return os.environ.get("RANK", "0") == "0"
