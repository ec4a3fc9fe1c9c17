"""Every key of the configuration, followed from YAML to the object that acts on it, with a value that is no default.

A row names a miniature of tests/plugins/receivers.py and what to ask of it; a key without a row fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml

from coordexp.config.rules import REQUIRED, Rule, build_rule

if TYPE_CHECKING:
    from tests.plugins.receivers import Built
    from tests.plugins.stage2 import Stage2Kit

Ask = Callable[["Built"], Any]


@dataclass(frozen=True)
class Row:
    """`ask` gives what acts; it equals `expected`, or the written value where that is None."""

    key: str
    build: str
    ask: Ask
    expected: Any = None


def argument(name: str) -> Ask:
    """A field of transformers' arguments, which the loop reads."""

    def ask(built: Built) -> Any:
        value = getattr(built.args, name)
        return getattr(value, "value", value)

    return ask


def of_group(key: str, *parts: str) -> Ask:
    return lambda built: built.group(*parts)[key]


def of_module(module: str, key: str) -> Ask:
    return lambda built: getattr(built.module(module), key)


def of_peft(key: str) -> Ask:
    return lambda built: getattr(built.peft, key)


def adapted(built: Built) -> set[str]:
    """Last names of the layers that have an adapter."""
    return {n.split(".lora_A")[0].rsplit(".", 1)[-1] for n, _ in built.trainer.model.named_modules() if ".lora_A" in n}


def decayed(built: Built) -> float:
    """A matrix decays; ms-swift leaves biases and norms without."""
    return built.group("language_model", "q_proj.weight")["weight_decay"]


def warm_up(built: Built) -> int:
    """Steps before the rate stands still, of ten."""
    rates = built.rates(10)
    return rates.index(max(rates))


def shape_of_schedule(built: Built) -> tuple[bool, float, float]:
    """Rises over .3 of ten steps, falls as a cosine does, and ends at the lowest rate."""
    rates = built.rates(11)
    falling = all(before > after for before, after in pairwise(rates[3:]))
    return falling and rates[0] < rates[2] < rates[3], max(rates), round(rates[10], 9)


def of_decoding(key: str) -> tuple[Row, Row]:
    """A key of how answers are drawn: training and evaluation ask for it."""
    name = key.rpartition(".")[2]
    return (
        Row(f"rollout_matching.{key}", "answers", lambda b: getattr(b.asked[0], name)),
        Row(f"rollout_matching.{key}", "answers", lambda b: getattr(b.asked[1], name)),
    )


def of_matching(key: str) -> Row:
    return Row(f"rollout_matching.{key}", "answers", lambda b: getattr(b.phase.settings.matching, key))


def of_dump(key: str) -> Row:
    return Row(f"rollout_matching.monitor_dump.{key}", "answers", lambda b: getattr(b.phase.dump, key))


def of_distribution(build: str, keys: Mapping[str, str]) -> tuple[Row, ...]:
    """Keys of `custom.coord_soft_ce_w1`, each with the key of `coord_reg` that it becomes."""
    return tuple(
        Row(f"custom.coord_soft_ce_w1.{key}", build, of_module("coord_reg", name)) for key, name in keys.items()
    )


def of_channels(key: str, module: str, name: str | None = None) -> Row:
    return Row(f"stage2_ab.{key}", "channels", of_module(module, key if name is None else name))


def modules(built: Built) -> list[tuple[str, bool, float, tuple[str, ...]]]:
    """The modules that the run computes, in order."""
    manifest = built.parts.run.objective.manifest
    return [(e.name, e.enabled, e.weight, e.channels) for e in (*manifest.objective, *manifest.diagnostics)]


MODULES = [
    ("coord_reg", True, 1.0, ("B",)),
    ("token_ce", True, 0.4, ("A", "B")),
    ("coord_diag", False, 1.0, ("A", "B")),
]
EVERYWHERE = {key: key for key in ("soft_ce_weight", "w1_weight", "temperature", "target_sigma", "target_truncate")}
GATES = {"ce_weight": "coord_ce_weight", "gate_weight": "coord_gate_weight", "text_gate_weight": "text_gate_weight"}
LOW, HIGH = "training.lr_scheduler_kwargs.min_lr", 2e-3
ROWS = (
    Row("global_max_length", "packed", lambda b: b.encoder.settings.max_length),
    Row("global_max_length", "packed", lambda b: b.parts.plans.packs.cap),
    Row("global_max_length", "packed", lambda b: b.parts.validation.packs.cap),
    Row("global_max_length", "packed", lambda b: b.parts.row_length),
    Row("model.model", "packed", lambda b: b.trainer.model.model_dir),
    Row("model.torch_dtype", "workers", lambda b: str(b.trainer.model.dtype).removeprefix("torch.")),
    Row("model.attn_impl", "packed", lambda b: b.trainer.model.config.text_config._attn_implementation),
    Row("model.attn_impl", "packed", lambda b: b.trainer.model.config.vision_config._attn_implementation),
    Row("template.max_pixels", "packed", lambda b: b.encoder.settings.max_pixels),
    Row("template.max_pixels", "packed", lambda b: b.encoder.template.max_pixels),
    Row("data.dataloader_num_workers", "workers", lambda b: b.parts.plans.stream.loader.num_workers),
    Row("data.dataloader_num_workers", "workers", lambda b: b.parts.validation.stream.loader.num_workers),
    Row("data.dataloader_prefetch_factor", "workers", lambda b: b.parts.plans.stream.loader.prefetch_factor),
    Row("data.dataloader_prefetch_factor", "workers", lambda b: b.parts.validation.stream.loader.prefetch_factor),
    Row("data.dataloader_persistent_workers", "workers", lambda b: b.parts.plans.stream.loader.persistent_workers),
    Row("data.dataloader_persistent_workers", "workers", lambda b: b.parts.validation.stream.loader.persistent_workers),
    Row("tuner.tuner_type", "adapter", lambda b: b.peft.peft_type.value.lower()),
    Row("tuner.freeze_vit", "frozen", lambda b: "vit" not in b.trained() and "llm" in b.trained()),
    Row("tuner.freeze_aligner", "frozen", lambda b: "aligner" not in b.trained() and "llm" in b.trained()),
    Row("tuner.freeze_llm", "frozen_text", lambda b: b.trained() == {"vit", "aligner"}),
    Row("tuner.target_modules", "workers", lambda b: sorted(adapted(b))),
    Row("tuner.target_regex", "adapter", lambda b: sorted(adapted(b)), ["q_proj"]),
    Row("tuner.modules_to_save", "workers", lambda b: list(b.peft.modules_to_save)),
    Row("tuner.lora_rank", "adapter", of_peft("r")),
    Row("tuner.lora_alpha", "adapter", of_peft("lora_alpha")),
    Row("tuner.lora_dropout", "adapter", of_peft("lora_dropout")),
    Row("tuner.lora_bias", "biases", of_peft("bias")),
    Row("tuner.use_dora", "adapter", of_peft("use_dora")),
    Row("training.output_dir", "packed", lambda b: str(b.run_folder.parent)),
    Row("training.output_dir", "workers", lambda b: str(b.run_folder)),
    Row("training.add_version", "packed", lambda b: b.run_folder.name.startswith("v0-"), True),
    Row("training.add_version", "workers", lambda b: b.run_folder.name.startswith("v0-")),
    Row("training.run_name", "packed", argument("run_name")),
    Row("training.run_name", "packed", lambda b: b.manifest["config"]["resolved"]["training"]["run_name"]),
    Row("training.logging_dir", "packed", argument("logging_dir")),
    Row("training.seed", "packed", argument("seed")),
    Row("training.seed", "packed", argument("data_seed")),
    Row("training.seed", "packed", lambda b: b.manifest["seeds"]["training"]),
    Row("training.num_train_epochs", "packed", argument("num_train_epochs")),
    Row("training.max_steps", "packed", argument("max_steps")),
    Row("training.per_device_train_batch_size", "packed", lambda b: len(b.parts.plans.shares()[0][0])),
    Row("training.per_device_train_batch_size", "packed", argument("per_device_train_batch_size")),
    Row("training.per_device_eval_batch_size", "packed", lambda b: b.parts.validation.split.per_forward),
    Row("training.effective_batch_size", "packed", lambda b: b.parts.plans.split.per_step),
    Row("training.gradient_accumulation_steps", "workers", lambda b: b.parts.plans.split.per_step / 3),
    Row("training.learning_rate", "packed", of_group("lr", "language_model", "q_proj")),
    Row("training.vit_lr", "packed", of_group("lr", "visual.blocks")),
    Row("training.aligner_lr", "packed", of_group("lr", "visual.merger")),
    Row("training.weight_decay", "packed", decayed),
    Row("training.adam_beta1", "packed", lambda b: b.group("q_proj")["betas"][0]),
    Row("training.adam_beta2", "packed", lambda b: b.group("q_proj")["betas"][1]),
    Row("training.adam_epsilon", "packed", of_group("eps", "q_proj")),
    Row("training.max_grad_norm", "packed", argument("max_grad_norm")),
    Row("training.lr_scheduler_type", "packed", shape_of_schedule, (True, HIGH, 1e-4)),
    Row("training.lr_scheduler_type", "workers", lambda b: len(set(b.rates(12)[5:])) == 1, True),
    Row(LOW, "packed", lambda b: shape_of_schedule(b)[2]),
    Row("training.warmup_ratio", "packed", warm_up, 2),
    Row("training.warmup_steps", "workers", warm_up),
    Row("training.bf16", "packed", lambda b: b.precision == "bf16"),
    Row("training.gradient_checkpointing", "packed", argument("gradient_checkpointing")),
    Row("training.packing", "packed", lambda b: max(map(len, b.parts.plans.packs.packs)) > 1),
    Row("training.packing", "workers", lambda b: max(map(len, b.parts.plans.packs.packs)) > 1),
    Row("training.eval_packing", "packed", lambda b: max(map(len, b.parts.validation.packs.packs)) > 1),
    Row("training.eval_strategy", "packed", argument("eval_strategy")),
    Row("training.eval_strategy", "adapter", argument("eval_strategy")),
    Row("training.eval_steps", "packed", argument("eval_steps")),
    Row("training.save_strategy", "packed", argument("save_strategy")),
    Row("training.save_strategy", "adapter", argument("save_strategy")),
    Row("training.save_steps", "workers", argument("save_steps")),
    Row("training.save_total_limit", "packed", argument("save_total_limit")),
    Row("training.save_delay_steps", "packed", lambda b: b.callback("CheckpointCallback").delay),
    Row("training.metric_for_best_model", "packed", lambda b: b.args.metric_for_best_model.removeprefix("eval_")),
    Row("training.greater_is_better", "packed", argument("greater_is_better")),
    Row("training.logging_steps", "packed", argument("logging_steps")),
    Row("training.logging_first_step", "packed", argument("logging_first_step")),
    Row("training.report_to", "packed", argument("report_to")),
    Row("custom.train_jsonl", "packed", lambda b: b.manifest["data"]["train"]["path"]),
    Row("custom.train_jsonl", "packed", lambda b: b.parts.plans.dataset.record(0).source.rpartition(":")[0]),
    Row("custom.val_jsonl", "packed", lambda b: b.manifest["data"]["val"]["path"]),
    Row("custom.val_jsonl", "packed", lambda b: b.parts.validation.dataset.record(0).source.rpartition(":")[0]),
    Row("custom.train_sample_limit", "packed", lambda b: len(b.parts.plans.dataset)),
    Row("custom.val_sample_limit", "packed", lambda b: len(b.parts.validation.dataset)),
    Row("custom.sample_with_replacement", "workers", lambda b: len(set(b.stored(b.parts.plans))) < 21),
    Row("custom.sample_with_replacement", "workers", lambda b: len(b.parts.plans.dataset) == 21),
    Row("custom.val_sample_with_replacement", "workers", lambda b: len(b.parts.validation.dataset) == 5),
    Row("custom.object_ordering", "packed", lambda b: b.encoder.settings.ordering),
    Row("custom.object_field_order", "packed", lambda b: b.encoder.settings.field_order),
    Row("custom.prompt_variant", "biases", lambda b: b.encoder.settings.variant),
    Row("custom.desc_ce_weight", "packed", of_module("token_ce", "desc_ce_weight")),
    Row("custom.coord_soft_ce_w1.ce_weight", "packed", of_module("coord_reg", "coord_ce_weight")),
    Row("custom.coord_soft_ce_w1.soft_ce_weight", "packed", of_module("coord_reg", "soft_ce_weight")),
    Row("custom.coord_soft_ce_w1.w1_weight", "packed", of_module("coord_reg", "w1_weight")),
    Row("custom.coord_soft_ce_w1.gate_weight", "packed", of_module("coord_reg", "coord_gate_weight")),
    Row("custom.coord_soft_ce_w1.text_gate_weight", "packed", of_module("coord_reg", "text_gate_weight")),
    Row("custom.coord_soft_ce_w1.temperature", "packed", of_module("coord_reg", "temperature")),
    Row("custom.coord_soft_ce_w1.target_sigma", "packed", of_module("coord_reg", "target_sigma")),
    Row("custom.coord_soft_ce_w1.target_truncate", "packed", of_module("coord_reg", "target_truncate")),
    Row("custom.coord_soft_ce_w1.enabled", "packed", lambda b: bool(b.module("coord_reg"))),
    Row("custom.bbox_geo.enabled", "packed", lambda b: bool(b.module("bbox_geo"))),
    Row("custom.bbox_geo.smoothl1_weight", "packed", of_module("bbox_geo", "smoothl1_weight")),
    Row("custom.bbox_geo.ciou_weight", "packed", of_module("bbox_geo", "ciou_weight")),
    Row("custom.coord_offset.enabled", "workers", lambda b: b.group("coord_offset.embed_offset") is not None),
    Row("custom.coord_offset.tie_head", "workers", lambda b: b.group("own_head_offset") is None, False),
    Row("custom.coord_offset.embed_lr", "workers", of_group("lr", "coord_offset.embed_offset")),
    Row("custom.coord_offset.head_lr", "workers", of_group("lr", "coord_offset.own_head_offset")),
    Row("custom.coord_offset.weight_decay", "workers", of_group("weight_decay", "coord_offset.embed_offset")),
    Row(
        "custom.coord_offset.dtype",
        "workers",
        lambda b: str(b.group("coord_offset.embed_offset")["params"][0].dtype).removeprefix("torch."),
    ),
    Row("custom.dump_conversation_text", "packed", lambda b: (b.folder / "first.txt").is_file()),
    Row("custom.dump_conversation_path", "packed", lambda b: str(next(b.folder.glob("first.txt")))),
    Row("custom.image_root", "frozen_text", lambda b: str(b.folder / "elsewhere")),
    Row("debug.enabled", "debugged", lambda b: b.run_folder.name == "debugged"),
    Row("debug.output_dir", "debugged", lambda b: str(b.run_folder)),
    Row("debug.train_sample_limit", "debugged", lambda b: len(b.parts.plans.dataset)),
    Row("debug.val_sample_limit", "debugged", lambda b: len(b.parts.validation.dataset)),
    Row("global_max_length", "answers", lambda b: b.phase.settings.row_length),
    Row("training.seed", "answers", lambda b: b.phase.settings.training_seed),
    Row("training.effective_batch_size", "answers", lambda b: b.parts.plans.per_step),
    Row("training.per_device_train_batch_size", "answers", lambda b: b.phase.settings.per_forward),
    Row("training.per_device_eval_batch_size", "answers", lambda b: b.parts.validation.split.per_forward),
    Row("training.packing", "channels", lambda b: b.phase.settings.row_length is not None),
    *of_distribution("answers", EVERYWHERE | GATES),
    *of_distribution("channels", EVERYWHERE),
    Row("rollout_matching.decode_batch_size", "answers", lambda b: b.phase.backend.settings.decode_batch_size),
    Row("rollout_matching.decode_batch_size", "answers", lambda b: b.parts.rollouts.backend.settings.decode_batch_size),
    *of_decoding("max_new_tokens"),
    *of_decoding("decoding.temperature"),
    *of_decoding("decoding.top_p"),
    *of_decoding("decoding.top_k"),
    *of_decoding("repetition_penalty"),
    of_matching("candidate_top_k"),
    of_matching("maskiou_gate"),
    of_matching("maskiou_resolution"),
    of_matching("fp_cost"),
    of_matching("fn_cost"),
    Row("rollout_matching.eval_detection.enabled", "answers", lambda b: b.parts.rollouts.settings.coco),
    Row("rollout_matching.eval_detection.score_mode", "answers", lambda b: b.parts.rollouts.settings.score_mode),
    Row("rollout_matching.eval_detection.score_mode", "answers", lambda b: b.phase.backend.settings.logprobs, True),
    Row(
        "rollout_matching.eval_detection.constant_score",
        "answers_authored",
        lambda b: b.parts.rollouts.settings.constant_score,
    ),
    Row("rollout_matching.monitor_dump.enabled", "answers", lambda b: b.phase.dump is not None),
    Row("rollout_matching.monitor_dump.enabled", "channels", lambda b: b.phase.dump is None, True),
    of_dump("every_steps"),
    of_dump("max_events"),
    of_dump("max_samples"),
    of_dump("max_text_chars"),
    Row("rollout_matching.coord_decode_mode", "answers_authored", lambda b: b.parts.run.objective.decode_mode),
    Row("rollout_matching.pipeline.objective", "answers_authored", modules, MODULES),
    Row("rollout_matching.pipeline.objective", "answers_authored", of_module("coord_reg", "w1_weight"), 0.6),
    Row("rollout_matching.pipeline.diagnostics", "answers_authored", modules, MODULES),
    Row("stage2_ab.coord_decode_mode", "channels", lambda b: b.parts.run.objective.decode_mode),
    of_channels("desc_ce_weight", "token_ce"),
    of_channels("desc_ce_weight", "token_ce", "rollout_fn_desc_weight"),
    of_channels("bbox_smoothl1_weight", "bbox_geo", "smoothl1_weight"),
    of_channels("bbox_ciou_weight", "bbox_geo", "ciou_weight"),
    of_channels("coord_ce_weight", "coord_reg"),
    of_channels("coord_el1_weight", "coord_reg"),
    of_channels("coord_ehuber_weight", "coord_reg"),
    of_channels("coord_entropy_weight", "coord_reg"),
    of_channels("coord_gate_weight", "coord_reg"),
    of_channels("text_gate_weight", "coord_reg"),
    of_channels("channel_b.drop_invalid_struct_ce_multiplier", "token_ce", "rollout_drop_invalid_struct_ce_multiplier"),
    Row("stage2_ab.pipeline.objective", "channels_authored", modules, MODULES),
    Row("stage2_ab.pipeline.objective", "channels_authored", of_module("token_ce", "rollout_fn_desc_weight"), 3.0),
    Row("stage2_ab.pipeline.diagnostics", "channels_authored", modules, MODULES),
)

# Followed where a build cannot show them, or by more than a value; each names the test below or elsewhere.
ELSEWHERE = {
    "data.dataset_num_proc": "tests/unit/training/test_measure.py",
    "data.dataloader_pin_memory": "test_page_locked_memory_serves_a_gpu_alone",
    "custom.offline_max_pixels": "test_the_offline_cap_is_compared_with_the_hard_one",
    "custom.trainer_variant": "tests/unit/training/test_train_command.py",
    "custom.coord_offset.ids.start": "tests/unit/training/test_stage1_run.py",
    "custom.coord_offset.ids.end": "tests/unit/training/test_stage1_run.py",
    "custom.extra": "kept in the resolved config; nothing reads it, as its contract says",
    "deepspeed.enabled": "tests/ddp/test_short_steps.py",
    "deepspeed.config": "tests/ddp/test_short_steps.py",
    "training.fp16": "refused on a CPU: tests/unit/training/test_stage1_variants.py",
    "quantization": "an empty section",
    "rlhf": "an empty section",
}
CHANNEL_A, VLLM, REPEATS = (
    "stage2_ab.schedule.b_ratio",
    "rollout_matching.rollout_backend",
    "rollout_matching.repeat_terminate.enabled",
)
# What no trainer does yet, each with the key at which a run that would read it is refused. A receiver brings a row.
WAITING = {
    "stage2_ab.schedule.b_ratio": CHANNEL_A,
    "stage2_ab.n_softctx_iter": CHANNEL_A,
    "stage2_ab.softctx_grad_mode": CHANNEL_A,
    "stage2_ab.coord_ctx_embed_mode": CHANNEL_A,
    "stage2_ab.fmt_struct_ce_weight": CHANNEL_A,
    "rollout_matching.rollout_backend": VLLM,
    "rollout_matching.vllm.max_model_len": VLLM,
    "rollout_matching.vllm.mode": VLLM,
    "rollout_matching.vllm.enable_prefix_caching": VLLM,
    "rollout_matching.vllm.server.servers": VLLM,
    "rollout_matching.vllm.server.timeout_s": VLLM,
    "rollout_matching.vllm.server.infer_timeout_s": VLLM,
    "rollout_matching.vllm.server.debug_dump.enabled": VLLM,
    "rollout_matching.vllm.server.debug_dump.every_steps": VLLM,
    "rollout_matching.vllm.server.debug_dump.dump_first_step": VLLM,
    "rollout_matching.vllm.server.debug_dump.max_events": VLLM,
    "rollout_matching.vllm.server.debug_dump.max_samples": VLLM,
    "rollout_matching.vllm.server.debug_dump.max_chars": VLLM,
    "rollout_matching.vllm.colocate.tensor_parallel_size": VLLM,
    "rollout_matching.vllm.colocate.gpu_memory_utilization": VLLM,
    "rollout_matching.vllm.colocate.enforce_eager": VLLM,
    "rollout_matching.repeat_terminate.enabled": REPEATS,
    "rollout_matching.repeat_terminate.min_new_tokens": REPEATS,
    "rollout_matching.repeat_terminate.max_consecutive_token_repeats": REPEATS,
    "rollout_matching.repeat_terminate.ngram_size": REPEATS,
    "rollout_matching.repeat_terminate.ngram_repeats": REPEATS,
    "rollout_matching.repeat_terminate.max_object_keys": REPEATS,
}
SERVER = {
    "mode": "server",
    "max_model_len": 900,
    "server": {"servers": [{"base_url": "http://a:8000", "group_port": 1}]},
}
READERS: dict[str | None, dict[str, dict[str, Any]]] = {
    None: {
        "stage2_ab": {"n_softctx_iter": 3, "softctx_grad_mode": "em_detach", "coord_ctx_embed_mode": "soft"},
        "rollout_matching": {"vllm": SERVER, "repeat_terminate": {"max_object_keys": 9}},
    },
    CHANNEL_A: {"stage2_ab": {"schedule": {"b_ratio": 0.5}}},
    VLLM: {"rollout_matching": {"rollout_backend": "vllm", "vllm": SERVER}},
    REPEATS: {"rollout_matching": {"repeat_terminate": {"enabled": True, "max_object_keys": 9}}},
}
"""What has the keys that wait read, by the key that is refused for it; under None they are written, and nothing reads
them.
"""


def leaves(rule: Rule, path: tuple[str, ...] = ()) -> dict[str, Rule]:
    """Every key that holds a value, by its dotted path."""
    found: dict[str, Rule] = {}
    for name, inner in (rule.properties or {}).items():
        found |= leaves(inner, (*path, name)) if inner.properties else {".".join((*path, name)): inner}
    return found


KEYS = leaves(build_rule())


def written(built: Built, key: str) -> Any:
    """The value of a key in the miniature's resolved configuration."""
    value: Any = built.config
    for part in key.split("."):
        value = getattr(value, part)
    return list(value) if isinstance(value, tuple) else value


def is_fixed(rule: Rule) -> bool:
    """Whether the key takes a single value."""
    only = rule.items.enum if rule.items is not None else rule.enum
    return only is not None and len(only) == 1 and rule.size[0] <= 1 and not (rule.items and rule.default == list(only))


@pytest.mark.invariant("TRAIN-027")
@pytest.mark.parametrize("row", ROWS, ids=[f"{row.key}-{row.build}-{number}" for number, row in enumerate(ROWS)])
def test_a_key_reaches_what_acts_on_it(row: Row, built_run: Callable[[str], Built]) -> None:
    built = built_run(row.build)
    value = written(built, row.key)
    assert (
        value != KEYS[row.key].default
        or KEYS[row.key].default is REQUIRED
        or row.expected is not None
        or (row.key == "training.packing")
    ), "a default proves nothing"
    found = row.ask(built)
    assert found == (value if row.expected is None else row.expected)


@pytest.mark.invariant("TRAIN-027")
def test_every_key_has_a_row_a_single_value_or_a_place() -> None:
    rows = {row.key for row in ROWS}
    assert rows <= KEYS.keys() and ELSEWHERE.keys() <= KEYS.keys() and not rows & ELSEWHERE.keys()
    missing = [
        key
        for key, rule in KEYS.items()
        if key not in rows and key not in ELSEWHERE and key not in WAITING and not is_fixed(rule)
    ]
    assert missing == []


@pytest.mark.invariant("TRAIN-027")
def test_keys_that_wait_have_no_row_yet() -> None:
    assert WAITING.keys() <= KEYS.keys() and {None, *WAITING.values()} == READERS.keys()
    assert not WAITING.keys() & ({row.key for row in ROWS} | ELSEWHERE.keys())
    assert not [key for key in WAITING if is_fixed(KEYS[key])]


@pytest.mark.invariant("TRAIN-027")
@pytest.mark.invariant("TRAIN-033")
@pytest.mark.parametrize("key", READERS)
def test_what_would_read_keys_that_wait_is_refused_by_a_run_and_listed_by_a_dry_run(
    stage2_kit: Stage2Kit, key: str | None
) -> None:
    from coordexp.config import ConfigError, load_config
    from coordexp.training.build import build_run
    from coordexp.training.dry_run import dry_run

    told: dict[str, dict[str, Any]] = {
        "custom": {"trainer_variant": "stage2_two_channel"},
        "stage2_ab": {"schedule": {"b_ratio": 1.0}},
        "rollout_matching": {"pipeline": None},
    }
    written = {section: values | READERS[key].get(section, {}) for section, values in told.items()}
    config = load_config(stage2_kit.write(f"waiting_{key}", row=800, **written))
    lines = [line for line in dry_run(config) if line.startswith("not trained by this version: ")]
    if key is None:
        assert lines == [] and build_run(config).config is config
        return
    assert len(lines) == 1 and f" {key}: " in lines[0]
    with pytest.raises(ConfigError, match=rf"1 problem\n.* {key}: "):
        build_run(config)


@pytest.mark.invariant("TRAIN-027")
def test_page_locked_memory_serves_a_gpu_alone(built_run: Callable[[str], Built]) -> None:
    from coordexp.training.build import placement_on

    data = built_run("workers").config.data
    plain = built_run("packed").config.data
    assert data.dataloader_pin_memory and not plain.dataloader_pin_memory
    found = [
        placement_on(torch.device(kind), section).pin_memory for kind in ("cuda", "cpu") for section in (data, plain)
    ]
    assert found == [True, False, False, False]


@pytest.mark.invariant("TRAIN-027")
def test_what_the_run_reads_is_read_from_its_image_root(built_run: Callable[[str], Built]) -> None:
    built = built_run("frozen_text")
    images = Path(built.config.custom.image_root) / "images"
    item = built.parts.plans.dataset[0]
    assert item.image.size == (item.record.width, item.record.height)
    hidden = images.with_name("moved")
    images.rename(hidden)
    try:
        assert "cannot read the image" in str(built.parts.plans.dataset[0])
    finally:
        hidden.rename(images)
    assert built.parts.validation is None, "a run without custom.val_jsonl validates nothing"


@pytest.mark.invariant("TRAIN-027")
def test_events_go_to_the_logging_folder(built_run: Callable[[str], Built]) -> None:
    from coordexp.training.arguments import build_swift_arguments

    built = built_run("frozen")
    build_swift_arguments(built.config)
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == built.config.training.logging_dir


@pytest.mark.invariant("TRAIN-027")
def test_the_objective_scores_the_vocabularys_coord_ids(built_run: Callable[[str], Built]) -> None:
    from coordexp.coords.vocab import build_coord_vocab

    for name in ("packed", "workers"):
        built = built_run(name)
        expected = build_coord_vocab(built.encoder.tokenizer).ids
        assert len(set(built.parts.run.coord_ids)) == 1000 and built.parts.run.coord_ids == expected


@pytest.mark.invariant("TRAIN-027")
def test_training_and_validation_read_their_own_keys(built_run: Callable[[str], Built]) -> None:
    """Values differ between both, so one that is taken for the other shows."""
    packed, workers = built_run("packed"), built_run("workers")
    assert packed.parts.plans.split.per_forward == 2 and packed.parts.validation.split.per_forward == 3
    assert len(packed.parts.validation) == 1 and len(packed.parts.validation.packs.packs) == 1
    assert set(packed.stored(packed.parts.plans)) <= {f"records.jsonl:{line}" for line in range(1, 15)}
    assert len(set(packed.stored(packed.parts.plans))) == 9, "without replacement"
    assert len(set(workers.stored(workers.parts.validation))) <= 3 < len(workers.parts.validation.dataset)


@pytest.mark.invariant("TRAIN-027")
def test_the_offline_cap_is_compared_with_the_hard_one(tmp_path: Path, built_run: Callable[[str], Built]) -> None:
    from coordexp.config import ConfigError, load_config

    source = yaml.safe_load((built_run("frozen").folder / "config.yaml").read_text(encoding="utf-8"))
    for offline, fine in ((65536, True), (65537, False)):
        source["custom"]["offline_max_pixels"] = offline
        path = tmp_path / f"{offline}.yaml"
        path.write_text(yaml.safe_dump(source), encoding="utf-8")
        if fine:
            assert load_config(path).custom.offline_max_pixels == offline
        else:
            with pytest.raises(ConfigError, match=r"custom.offline_max_pixels: 65537 is above the hard cap"):
                load_config(path)
