"""Pauses Python's search for cycles while many small objects are made that hold none. Contract id: EVAL-093.

In: a block of work, or a function. Out: its own outcome; what it drops is freed by reference counts as ever.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def without_collecting() -> Iterator[None]:
    """Leave cycles alone for a while: every so many boxes all boxes are looked through, a quarter of the time of an
    evaluation. Whoever has switched the search off keeps it off.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
