"""Cross checks between keys that every configuration passes. Contract ids: CONFIG-009, CONFIG-010.

In: a view of the merged configuration; out: problems. Each check reads what it needs by dotted key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from coordexp.config.problems import ConfigError, Problem, nearest_match, show
from coordexp.config.trainable import build_problem
from coordexp.config.view import View
from coordexp.spec.logged import read_metric_rows

if TYPE_CHECKING:
    from coordexp.config.types import Config

Check = Callable[[View], Iterator[Problem]]
PIXELS_PER_TOKEN = 32 * 32
"""Image area of one token: patches of 16 pixels, merged 2 by 2."""
COORD_COUNT = 1000
STAGE1 = "stage1"
_MAP = "rollout/mAP"
_OF_ROLLOUTS = ("rollout/", "time/rollout_")
"""How the metrics begin that only a trainer with rollouts measures."""
ZERO_PRESETS = ("zero0", "zero1", "zero2", "zero2_offload")
"""ms-swift's own DeepSpeed configurations that keep the weights whole."""
SHARDED_WEIGHTS = (
    "ZeRO stage 3 shards the weights, and the objective reads the head's whole; nor can transformers load Qwen3-VL "
    "under it (its rotary buffers stay without values). Write zero2, which shards gradients and optimizer state"
)
"""Why a run under ZeRO-3 is refused."""
PATHS = (
    "model.model", "training.output_dir", "training.logging_dir", "custom.train_jsonl", "custom.val_jsonl",
    "custom.image_root", "custom.dump_conversation_path", "debug.output_dir", "deepspeed.config",
)  # fmt: skip
"""Keys that hold the path of a file or folder."""


def image_token_bound(max_pixels: int) -> int:
    """Most tokens that an image of at most `max_pixels` pixels takes (sides are multiples of 32)."""
    return max_pixels // PIXELS_PER_TOKEN


def check_trainer(config: Config, trainer: str) -> Config:
    """Return `config` if it is one for `trainer`; else raise `ConfigError`: it would train something else."""
    variant = config.custom.trainer_variant
    if variant != trainer:
        text = f"this trainer is {trainer}'s, and the configuration is one for {variant}; give it to that trainer"
        raise ConfigError(str(config.sources.path), [build_problem(config, "custom.trainer_variant", text)])
    return config


def check_effective_batch(config: Config, world_size: int) -> int:
    """Gradient accumulation steps of stage 1 for `world_size` ranks.

    effective_batch_size = per_device_train_batch_size x world_size x accumulation. Accumulation is derived, or equal to
    what is written; without effective_batch_size it is what is written, or 1. Raises `ConfigError` when it doesn't
    divide.
    """
    training = config.training
    if world_size < 1:
        raise ValueError(f"world size is the number of ranks, at least 1, got {world_size}")
    written = training.gradient_accumulation_steps
    if training.effective_batch_size is None:
        return written or 1
    step = training.per_device_train_batch_size * world_size
    accumulation, rest = divmod(training.effective_batch_size, step)
    key = "training.effective_batch_size"
    where = config.sources.where(key)
    product = f"per_device_train_batch_size {training.per_device_train_batch_size} x {world_size} ranks = {step}"
    message = ""
    if rest or not accumulation:
        message = f"{training.effective_batch_size} is no multiple of {product}; choose one that is"
    elif written is not None and written != accumulation:
        message = f"{training.effective_batch_size} over {product} gives {accumulation} accumulation steps, "
        message += f"but gradient_accumulation_steps says {written}; drop that key"
    if message:
        raise ConfigError(str(config.sources.path), [Problem(("training", "effective_batch_size"), message, where)])
    return accumulation


def units_per_step(config: Config, world_size: int) -> int:
    """Rows (stage 1) or records (stage 2) of an optimizer step over all ranks.

    Raises `ConfigError` when they do not divide over `world_size` ranks.
    """
    training = config.training
    if config.custom.trainer_variant == STAGE1:
        return check_effective_batch(config, world_size) * training.per_device_train_batch_size * world_size
    if world_size < 1:
        raise ValueError(f"world size is the number of ranks, at least 1, got {world_size}")
    records = training.effective_batch_size
    assert records is not None, "the loader asks stage 2 for it"
    if records % world_size:
        text = f"the {records} records of a step do not divide over {world_size} ranks; write a multiple of "
        text += f"{world_size}, such as {records + -records % world_size}"
        raise ConfigError(str(config.sources.path), [build_problem(config, "training.effective_batch_size", text)])
    return records


def paths(view: View) -> Iterator[Problem]:
    """A path is written out: nothing in it is expanded, and it fits a line."""
    for key in PATHS:
        written = view[key] if view.readable(key) else None
        if written is None:
            continue
        if "$" in written or written.startswith("~"):
            advice = "write the path itself, absolute, or relative to this file or to the project"
            yield view.problem(key, f"{show(written)}: variables and ~ are not expanded; {advice}")
        elif not written.strip() or not written.isprintable():
            yield view.problem(key, f"{show(written)} is no path: it is blank, or holds what can't be printed")


def run_name(view: View) -> Iterator[Problem]:
    """The name of a run fits a line of a log."""
    name = view["training.run_name"]
    if not name.strip() or not name.isprintable():
        yield view.problem("training.run_name", f"{show(name)} is no name: it is blank, or holds what can't be printed")


def batch_sizes(view: View) -> Iterator[Problem]:
    """The rows of stage 1 are a multiple of the device's batch and of the accumulation that is written."""
    if view["custom.trainer_variant"] != STAGE1:
        return
    effective = view["training.effective_batch_size"]
    per_device = view["training.per_device_train_batch_size"]
    written = view["training.gradient_accumulation_steps"]
    if effective is None:
        return
    if effective % per_device:
        text = f"{effective} is no multiple of per_device_train_batch_size {per_device}"
        yield view.problem("training.effective_batch_size", f"{text}; choose one that is")
    elif written is not None and effective % (per_device * written):
        text = f"{effective} is no multiple of per_device_train_batch_size {per_device} x {written} steps"
        yield view.problem("training.gradient_accumulation_steps", f"effective_batch_size {text}; drop this key")


def evaluation(view: View) -> Iterator[Problem]:
    """An evaluation that is asked for has records and a cadence."""
    strategy = view["training.eval_strategy"]
    if strategy == "no":
        return
    if view["custom.val_jsonl"] is None:
        yield view.problem("custom.val_jsonl", f"needed, because training.eval_strategy is {strategy}")
    if strategy == "steps" and view["training.eval_steps"] is None:
        yield view.problem("training.eval_steps", "needed, because training.eval_strategy is steps")


def best_checkpoint(view: View) -> Iterator[Problem]:
    """Ranking checkpoints needs a metric, its direction, and evaluations."""
    metric = view["training.metric_for_best_model"]
    if metric is not None:
        yield from _measured(view, metric)
    if metric is not None and view["training.greater_is_better"] is None:
        yield view.problem("training.greater_is_better", f"needed, because checkpoints are ranked by {metric}")
    if view["training.save_strategy"] != "best":
        return
    if metric is None:
        yield view.problem("training.metric_for_best_model", "needed, because training.save_strategy is best")
    if view["training.eval_strategy"] == "no":
        yield view.problem("training.save_strategy", "best needs evaluations; set training.eval_strategy")


def _measured(view: View, metric: str) -> Iterator[Problem]:
    key, name = "training.metric_for_best_model", metric.removeprefix("eval_")
    stage = 1 if view["custom.trainer_variant"] == STAGE1 else 2
    known = _ranking_metrics(stage)
    if name not in known:
        near = nearest_match(name, known)
        hint = f"did you mean {near}? " if near else ""
        text = f"no evaluation of stage {stage} measures {show(metric)}; {hint}allowed: {', '.join(known)}"
        yield view.problem(key, text)
    elif name == _MAP and view["rollout_matching.eval_detection.enabled"] is False:
        text = f"nothing measures {_MAP} while rollout_matching.eval_detection.enabled is false"
        yield view.problem(key, f"{text}; turn it on, or rank by another metric")


@lru_cache(maxsize=2)
def _ranking_metrics(stage: int) -> tuple[str, ...]:
    """What the contract gives to the evaluations of a stage: the loss and its parts, and in stage 2 the rollouts'."""
    measured = [row.key for row in read_metric_rows() if "eval" in row.modes]
    common = (key for key in measured if not key.startswith(_OF_ROLLOUTS))
    rollouts = (key for key in measured if key.startswith(_OF_ROLLOUTS) and stage == 2)
    return ("loss", *common, *rollouts)


def precision(view: View) -> Iterator[Problem]:
    """At most one autocast type, and float32 weights below float16's loss scale."""
    if not view["training.fp16"]:
        return
    if view["training.bf16"]:
        yield view.problem("training.fp16", "bf16 is on already; keep one of them")
    elif view["model.torch_dtype"] == "bfloat16":
        text = "autocasts float32 weights, and model.torch_dtype is bfloat16; write bf16: true in its place"
        yield view.problem("training.fp16", text)


def duration(view: View) -> Iterator[Problem]:
    """A number of steps is one that upstream obeys: it takes 0 for no number, and trains all epochs."""
    if view["training.max_steps"] == 0:
        yield view.problem(
            "training.max_steps", "0 would train all of num_train_epochs; write -1 for that, or 1 or more"
        )


def dataloader(view: View) -> Iterator[Problem]:
    """Settings of workers need workers."""
    if view["data.dataloader_num_workers"] > 0:
        return
    for key in ("data.dataloader_prefetch_factor", "data.dataloader_persistent_workers"):
        if view.readable(key) and view[key]:
            yield view.problem(key, "needs data.dataloader_num_workers above 0")


def schedule(view: View) -> Iterator[Problem]:
    """min_lr and the schedules that end in it come together."""
    kind, lowest = view["training.lr_scheduler_type"], view["training.lr_scheduler_kwargs.min_lr"]
    if kind.endswith("min_lr") and lowest is None:
        yield view.problem("training.lr_scheduler_kwargs.min_lr", f"needed by lr_scheduler_type {kind}")
    if not kind.endswith("min_lr") and lowest is not None:
        yield view.problem("training.lr_scheduler_kwargs.min_lr", f"lr_scheduler_type {kind} does not read it")
    if lowest is not None and lowest > view["training.learning_rate"]:
        peak = view["training.learning_rate"]
        yield view.problem("training.lr_scheduler_kwargs.min_lr", f"{lowest} is above training.learning_rate {peak}")


def image_sizes(view: View) -> Iterator[Problem]:
    """The largest image that is let in fits a row, and offline cooking keeps below the cap."""
    cap, longest = view["template.max_pixels"], view["global_max_length"]
    tokens = image_token_bound(cap)
    if tokens >= longest:
        text = f"{cap} lets in images of {tokens} tokens, which global_max_length {longest} can't hold"
        yield view.problem("template.max_pixels", f"{text}; lower it to the size that records were cooked to")
    offline = view["custom.offline_max_pixels"]
    if offline is not None and offline > cap:
        yield view.problem("custom.offline_max_pixels", f"{offline} is above the hard cap template.max_pixels {cap}")


def coord_objective(view: View) -> Iterator[Problem]:
    """An objective that is switched on weighs something."""
    for section in ("custom.coord_soft_ce_w1", "custom.bbox_geo"):
        weights = [key for key in view.rule(section).properties or {} if key.endswith("_weight")]
        if view[f"{section}.enabled"] and not any(view[f"{section}.{key}"] for key in weights):
            yield view.problem(f"{section}.enabled", f"is true while {', '.join(weights)} are all 0; turn it off")


def coord_ids(view: View) -> Iterator[Problem]:
    """A stated range of coord ids holds exactly 1000 of them."""
    if view["custom.coord_offset.ids"] is None:
        return
    start, end = view["custom.coord_offset.ids.start"], view["custom.coord_offset.ids.end"]
    if end - start + 1 != COORD_COUNT:
        text = f"{start}..{end} are {end - start + 1} ids; coord tokens are {COORD_COUNT} ids in a row"
        yield view.problem("custom.coord_offset.ids", text)


def deepspeed(view: View) -> Iterator[Problem]:
    """DeepSpeed, when on, has a configuration, and one that leaves the weights whole on every rank."""
    if not view["deepspeed.enabled"]:
        return
    written = view["deepspeed.config"]
    allowed = f"{', '.join(ZERO_PRESETS)}, or the path of a JSON file"
    if written is None:
        yield view.problem("deepspeed.config", f"needed, because deepspeed.enabled is true: {allowed}")
    elif written in ("zero3", "zero3_offload"):
        yield view.problem("deepspeed.config", f"{show(written)}: {SHARDED_WEIGHTS}")
    elif written not in ZERO_PRESETS and "/" not in written and not written.endswith(".json"):
        near = nearest_match(written, ZERO_PRESETS)
        hint = f"did you mean {near}? " if near else ""
        yield view.problem("deepspeed.config", f"{show(written)} is no preset; {hint}allowed: {allowed}")


GENERAL_CHECKS: tuple[Check, ...] = (
    paths,
    run_name,
    batch_sizes,
    evaluation,
    best_checkpoint,
    precision,
    duration,
    dataloader,
    schedule,
    image_sizes,
    coord_objective,
    coord_ids,
    deepspeed,
)
