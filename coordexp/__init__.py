"""CoordExp: contract-verified fine-tuning of Qwen3-VL for detection by writing coordinate tokens.

Importing it is light; it only arranges that a later `import torchvision` works beside a CPU torch.
"""

from __future__ import annotations

from coordexp.bridges.torchvision_ops import install_finder

__version__ = "0.1.0"

install_finder()
