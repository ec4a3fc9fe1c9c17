"""Imported when an interpreter starts (by set-up's .pth file, or by `sitecustomize` beside it); imports nothing itself.

Waits for `import torchvision` and then asks the finder of `coordexp.bridges.torchvision_ops`.
"""

from __future__ import annotations

import sys

next_sitecustomize_ran = False


class WaitForTorchvision:
    """A meta-path finder that costs nothing until torchvision is looked up."""

    def find_spec(self, fullname, path=None, target=None):  # type: ignore[no-untyped-def]
        """None for every name but torchvision."""
        if fullname != "torchvision":
            return None
        from coordexp.bridges.torchvision_ops import FINDER

        return FINDER.find_spec(fullname, path, target)


sys.meta_path.insert(0, WaitForTorchvision())
