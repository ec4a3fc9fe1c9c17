"""The typed view of stage 2's sections, `stage2_ab` and `rollout_matching`; see `sections` for what it promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveModuleConfig:
    """`pipeline.objective[i]`: one loss module. The schema says which names there are."""

    name: str
    enabled: bool = True
    weight: float = 1.0
    channels: tuple[Literal["A", "B"], ...] = ("A", "B")
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosticModuleConfig:
    """`pipeline.diagnostics[i]`: one measuring module. The schema says which names there are."""

    name: str
    enabled: bool = True
    weight: float = 1.0
    channels: tuple[Literal["A", "B"], ...] = ("A", "B")
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """An authored objective: ordered modules."""

    objective: tuple[ObjectiveModuleConfig, ...]
    diagnostics: tuple[DiagnosticModuleConfig, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage2ScheduleConfig:
    """`stage2_ab.schedule`: which optimizer steps are Channel B."""

    b_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelBConfig:
    """`stage2_ab.channel_b`: what is special about training on rollouts."""

    drop_invalid_struct_ce_multiplier: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage2AbConfig:
    """`stage2_ab`: two-channel training. With `pipeline` set, the flat weights keep their defaults and are unread."""

    schedule: Stage2ScheduleConfig
    n_softctx_iter: int = 2
    softctx_grad_mode: Literal["unroll", "em_detach"] = "unroll"
    coord_ctx_embed_mode: Literal["soft", "st", "hard"] = "st"
    coord_decode_mode: Literal["exp", "st"] = "exp"
    desc_ce_weight: float = 1.0
    fmt_struct_ce_weight: float = 0.1
    bbox_smoothl1_weight: float = 1.0
    bbox_ciou_weight: float = 1.0
    coord_ce_weight: float = 0.0
    coord_el1_weight: float = 0.0
    coord_ehuber_weight: float = 0.0
    coord_entropy_weight: float = 0.0
    coord_gate_weight: float = 0.0
    text_gate_weight: float = 0.0
    channel_b: ChannelBConfig = ChannelBConfig()
    pipeline: PipelineConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingConfig:
    """`rollout_matching.decoding`: how the next token is chosen."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = -1
    grammar: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatTerminateConfig:
    """`rollout_matching.repeat_terminate`: when a sequence that repeats itself is ended."""

    enabled: bool = False
    min_new_tokens: int = 256
    max_consecutive_token_repeats: int | None = None
    ngram_size: int | None = None
    ngram_repeats: int | None = None
    max_object_keys: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalDetectionConfig:
    """`rollout_matching.eval_detection`: detection metrics of an evaluation step."""

    enabled: bool = True
    score_mode: Literal["constant", "confidence"] = "constant"
    constant_score: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorDumpConfig:
    """`rollout_matching.monitor_dump`: rollouts written out for reading, bounded."""

    enabled: bool = False
    every_steps: int | None = None
    max_events: int = 50
    max_samples: int = 1
    max_text_chars: int = 4000
    min_free_gib: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSyncConfig:
    """`rollout_matching.vllm.sync`: how weights reach vLLM."""

    mode: Literal["full"] = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmServerEntry:
    """`rollout_matching.vllm.server.servers[i]`: one server."""

    base_url: str
    group_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugDumpConfig:
    """`rollout_matching.vllm.server.debug_dump`: requests and answers written out, bounded."""

    enabled: bool = False
    every_steps: int | None = None
    dump_first_step: bool = True
    max_events: int = 20
    max_samples: int = 1
    max_chars: int = 4000
    min_free_gib: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmServerConfig:
    """`rollout_matching.vllm.server`: the servers, and how long to wait for them."""

    servers: tuple[VllmServerEntry, ...]
    timeout_s: float = 240.0
    infer_timeout_s: float | None = None
    debug_dump: DebugDumpConfig = DebugDumpConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmColocateConfig:
    """`rollout_matching.vllm.colocate`: an engine in the learner's process."""

    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.45
    enforce_eager: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmConfig:
    """`rollout_matching.vllm`: where vLLM runs."""

    max_model_len: int
    mode: Literal["server", "colocate"] = "server"
    enable_prefix_caching: bool = True
    sync: VllmSyncConfig = VllmSyncConfig()
    server: VllmServerConfig | None = None
    colocate: VllmColocateConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutMatchingConfig:
    """`rollout_matching`: generation, matching and evaluation of stage 2."""

    rollout_backend: Literal["hf", "vllm"] = "hf"
    decode_batch_size: int = 1
    max_new_tokens: int = 1024
    decoding: DecodingConfig = DecodingConfig()
    repetition_penalty: float = 1.0
    repeat_terminate: RepeatTerminateConfig = RepeatTerminateConfig()
    candidate_top_k: int = 5
    maskiou_gate: float = 0.3
    maskiou_resolution: int = 256
    fp_cost: float = 0.5
    fn_cost: float = 2.0
    eval_detection: EvalDetectionConfig = EvalDetectionConfig()
    monitor_dump: MonitorDumpConfig = MonitorDumpConfig()
    vllm: VllmConfig | None = None
    coord_decode_mode: Literal["exp", "st"] = "exp"
    pipeline: PipelineConfig | None = None
