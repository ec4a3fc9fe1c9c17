"""What only a run that trains is asked. Contract id: CONFIG-025.

In: a loaded configuration; out: the same one or a `ConfigError`. Evaluation does not ask: it loads weights of any type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.config.problems import ConfigError, Problem

if TYPE_CHECKING:
    from coordexp.config.types import Config

FLOAT32_ADVICE = "write model.torch_dtype: float32 with training.bf16: true"
"""What to write for weights of a type that does not hold their updates."""


def check_trainable(config: Config) -> Config:
    """Return `config` if its weights can be trained; float16 ones overflow, and raise `ConfigError`."""
    if config.model.torch_dtype == "float16":
        text = f"float16 weights overflow when they are trained, so float16 is for evaluation alone; {FLOAT32_ADVICE}"
        raise ConfigError(str(config.sources.path), [build_problem(config, "model.torch_dtype", text)])
    return config


def build_problem(config: Config, key: str, message: str) -> Problem:
    """A problem at a dotted key of a loaded configuration, with the place where it is written."""
    return Problem(tuple(key.split(".")), message, config.sources.where(key))
