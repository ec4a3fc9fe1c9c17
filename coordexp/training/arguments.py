"""A resolved config becomes ms-swift's own training arguments. Contract ids: TRAIN-003, TRAIN-004.

Every YAML key that ms-swift knows is handed on under its upstream name; what is the project's own (packing, losses,
data) is not, because ms-swift must not do it a second time.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coordexp.config import Config, resolve_input, resolve_output, units_per_step
from coordexp.config.checks import ZERO_PRESETS

if TYPE_CHECKING:
    from swift.arguments import SftArguments

_OWN_TRAINING_KEYS = frozenset(
    {
        "effective_batch_size",
        "packing",
        "eval_packing",
        "save_delay_steps",
        "gradient_accumulation_steps",
    }
)


def world_size() -> int:
    """Number of data-parallel ranks that the launcher started (torchrun's WORLD_SIZE, else 1)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def swift_keyword_arguments(config: Config, model_folder: Path, ranks: int) -> dict[str, Any]:
    """Keyword arguments of `swift.arguments.SftArguments` for `ranks` data-parallel ranks.

    A step is one plan, so upstream accumulates nothing. Two forwards before one backward fail under DDP with reentrant
    checkpointing, which upstream takes where it is not told.

    Raises `ConfigError` where `effective_batch_size` does not divide (AUDIT-2.6 keeps the dataset placeholders).
    """
    units_per_step(config, ranks)
    training = {
        key: value
        for key, value in dataclasses.asdict(config.training).items()
        if key not in _OWN_TRAINING_KEYS and value is not None
    }
    training["lr_scheduler_kwargs"] = {
        key: value for key, value in training["lr_scheduler_kwargs"].items() if value is not None
    }
    if config.training.warmup_steps:
        # ms-swift refuses both, and a child's steps are meant to take the place of an inherited ratio.
        del training["warmup_ratio"]
    training |= {key: str(resolve_output(config, training[key])) for key in ("output_dir", "logging_dir")}
    tuner = {key: value for key, value in dataclasses.asdict(config.tuner).items() if value is not None}
    data = {key: value for key, value in dataclasses.asdict(config.data).items() if value is not None}
    own = {
        "model": str(model_folder),
        "model_type": config.model.model_type,
        "torch_dtype": config.model.torch_dtype,
        "attn_impl": config.model.attn_impl,
        "template": config.template.template,
        "truncation_strategy": config.template.truncation_strategy,
        "max_pixels": config.template.max_pixels,
        "norm_bbox": config.template.norm_bbox,
        "max_length": config.global_max_length,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "data_seed": config.training.seed,
        "check_model": False,
        "load_args": False,
        "packing": False,
        "split_dataset_ratio": 0.0,
        "lazy_tokenize": True,
        "save_only_model": True,
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
        "use_logits_to_keep": False,
        "average_tokens_across_devices": True,
        "use_cpu": not torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        "deepspeed": deepspeed_configuration(config),
    }
    merged = training | tuner | data | own
    # ms-swift and transformers tell lists from single values by `isinstance(…, list)`.
    return {key: list(value) if isinstance(value, tuple) else value for key, value in merged.items()}


def deepspeed_configuration(config: Config) -> str | None:
    """A preset of ms-swift, the whole path of a DeepSpeed file, or None without DeepSpeed."""
    written = config.deepspeed.config
    if not config.deepspeed.enabled or written is None:
        return None
    return written if written in ZERO_PRESETS else str(resolve_input(config, "deepspeed.config", written))


def build_swift_arguments(config: Config) -> SftArguments:
    """ms-swift's arguments, checked by ms-swift. Creates `output_dir`."""
    from swift.arguments import SftArguments

    from coordexp.training.optimizer import register_optimizer

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # upstream imports DeepSpeed where it is installed, and asks
    model_folder = resolve_input(config, "model.model", config.model.model)
    keywords = swift_keyword_arguments(config, model_folder, world_size())
    keywords["optimizer"] = register_optimizer(config.custom.coord_offset)
    arguments = SftArguments(**keywords)
    # ms-swift leaves the variable alone where an earlier run of the process, or the shell, has set it.
    os.environ["TENSORBOARD_LOGGING_DIR"] = keywords["logging_dir"]
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    return arguments
