"""The typed view of a configuration, section by section: frozen, with the names, types and defaults of the schemas.

The schemas in `contracts/config/` describe each field; a parity test keeps both equal in both directions (CONFIG-005).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """`model`: which checkpoint is loaded, and how."""

    model: str
    model_type: Literal["qwen3_vl"] = "qwen3_vl"
    torch_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attn_impl: Literal["segments", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "segments"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationConfig:
    """`quantization`: empty, because there is no quantized training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RlhfConfig:
    """`rlhf`: empty, because there is no preference objective."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateConfig:
    """`template`: how a record becomes tokens."""

    template: Literal["qwen3_vl"] = "qwen3_vl"
    truncation_strategy: Literal["raise"] = "raise"
    max_pixels: int = 786432
    norm_bbox: Literal["none"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """`data`: placeholders for ms-swift, and the dataloader."""

    dataset: tuple[Literal["dummy"], ...]
    val_dataset: tuple[Literal["dummy"], ...]
    dataset_num_proc: int = 1
    dataloader_num_workers: int = 0
    dataloader_pin_memory: bool = False
    dataloader_prefetch_factor: int | None = None
    dataloader_persistent_workers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TunerConfig:
    """`tuner`: which weights are trained."""

    tuner_type: Literal["full", "lora"] = "full"
    freeze_llm: bool = False
    freeze_vit: bool = False
    freeze_aligner: bool = False
    target_modules: tuple[str, ...] = ("all-linear",)
    target_regex: str | None = None
    modules_to_save: tuple[str, ...] = ()
    lora_rank: int = 8
    lora_alpha: float = 32.0
    lora_dropout: float = 0.05
    lora_bias: Literal["none", "all"] = "none"
    use_dora: bool = False
    use_swift_lora: Literal[False] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LrSchedulerKwargs:
    """`training.lr_scheduler_kwargs`: what the schedule takes beside its shape."""

    min_lr: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """`training`: identity, optimizer, batches, and when the run evaluates, saves and logs."""

    output_dir: str
    run_name: str
    logging_dir: str
    add_version: bool = True
    seed: int = 17
    num_train_epochs: float = 1.0
    max_steps: int = -1
    per_device_train_batch_size: int = 1
    per_device_eval_batch_size: int = 1
    effective_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    optimizer: Literal["multimodal"] = "multimodal"
    learning_rate: float = 1e-4
    vit_lr: float | None = None
    aligner_lr: float | None = None
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    lr_scheduler_type: Literal[
        "cosine_warmup_with_min_lr", "cosine_with_min_lr", "cosine", "linear", "constant", "constant_with_warmup"
    ] = "cosine"
    lr_scheduler_kwargs: LrSchedulerKwargs = LrSchedulerKwargs()
    warmup_ratio: float = 0.0
    warmup_steps: int = 0
    bf16: bool = False
    fp16: bool = False
    gradient_checkpointing: bool = False
    packing: bool = False
    eval_packing: bool = False
    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    eval_steps: int | None = None
    save_strategy: Literal["no", "steps", "epoch", "best"] = "steps"
    save_steps: int = 500
    save_total_limit: int | None = None
    save_only_model: Literal[True] = True
    save_delay_steps: int = 0
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    logging_steps: int = 10
    logging_first_step: bool = True
    report_to: tuple[Literal["tensorboard"], ...] = ("tensorboard",)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordTokensConfig:
    """`custom.coord_tokens`: coordinates are coord tokens; there is no other mode."""

    enabled: Literal[True] = True
    skip_bbox_norm: Literal[True] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordSoftCeW1Config:
    """`custom.coord_soft_ce_w1`: distribution losses at coord positions."""

    enabled: bool = False
    ce_weight: float = 0.0
    soft_ce_weight: float = 1.0
    w1_weight: float = 1.0
    gate_weight: float = 1.0
    text_gate_weight: float = 0.0
    temperature: float = 1.0
    target_sigma: float = 2.0
    target_truncate: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BboxGeoConfig:
    """`custom.bbox_geo`: geometry losses of stage 1."""

    enabled: bool = False
    smoothl1_weight: float = 1.0
    ciou_weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordIdRange:
    """`custom.coord_offset.ids`: first and last coord id."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordOffsetConfig:
    """`custom.coord_offset`: the adapter on the coord rows of embedding and head."""

    enabled: bool = False
    tie_head: bool = True
    ids: CoordIdRange | None = None
    embed_lr: float | None = None
    head_lr: float | None = None
    weight_decay: float = 0.0
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomConfig:
    """`custom`: the records, their text, and the coordinate objective."""

    train_jsonl: str
    val_jsonl: str | None = None
    image_root: str | None = None
    train_sample_limit: int | None = None
    val_sample_limit: int | None = None
    sample_with_replacement: bool = False
    val_sample_with_replacement: bool = False
    object_ordering: Literal["sorted", "random"] = "sorted"
    object_field_order: Literal["desc_first", "geometry_first"] = "desc_first"
    json_format: Literal["standard"] = "standard"
    emit_norm: Literal["none"] = "none"
    prompt_variant: Literal["default", "coco_80"] = "default"
    offline_max_pixels: int | None = None
    trainer_variant: Literal["stage1", "stage2_two_channel", "stage2_rollout_aligned"] = "stage1"
    desc_ce_weight: float = 1.0
    coord_tokens: CoordTokensConfig = CoordTokensConfig()
    coord_soft_ce_w1: CoordSoftCeW1Config = CoordSoftCeW1Config()
    bbox_geo: BboxGeoConfig = BboxGeoConfig()
    coord_offset: CoordOffsetConfig = CoordOffsetConfig()
    dump_conversation_text: bool = False
    dump_conversation_path: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugConfig:
    """`debug`: overrides for a short trial; applied by the loader when enabled."""

    enabled: bool = False
    output_dir: str | None = None
    train_sample_limit: int | None = None
    val_sample_limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepspeedConfig:
    """`deepspeed`: sharding over GPUs."""

    enabled: bool = False
    config: str | None = None
