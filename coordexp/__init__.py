"""CoordExp: contract-verified fine-tuning of Qwen3-VL for detection by writing coordinate tokens."""

__version__ = "0.1.0"
