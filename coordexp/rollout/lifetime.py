"""A parent's pid in, what ties this process's life to it out; Linux alone can. ROLL-013, TRAIN-045."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_SET_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def tie_to(parent: int, death_signal: signal.Signals) -> Callable[[], None] | None:
    """What a child calls, between fork and exec or later, to get `death_signal` when `parent` ends; None elsewhere.

    All that it needs is made here, before a fork.
    """
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)

    def ask_for_signal() -> None:
        library.prctl(_SET_DEATH_SIGNAL, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:
            # It ended before the kernel was asked.
            os.kill(os.getpid(), signal.SIGKILL)

    return ask_for_signal
