"""Where each key of stage 1 is found: rows of `test_receivers.py`, and how to ask a miniature for what acts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.plugins.receivers import Built

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
)
