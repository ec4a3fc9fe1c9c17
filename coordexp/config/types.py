"""A whole configuration and where it came from. Contract ids: CONFIG-002, CONFIG-005."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coordexp.config.rollout_sections import (
    RolloutMatchingConfig,
    Stage2AbConfig,
)
from coordexp.config.sections import (
    CustomConfig,
    DataConfig,
    DebugConfig,
    DeepspeedConfig,
    ModelConfig,
    QuantizationConfig,
    RlhfConfig,
    TemplateConfig,
    TrainingConfig,
    TunerConfig,
)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a configuration came from.

    `path` is the file that was named, `files` all that took part in the order they were applied, `origins` the
    `file:line` of each written key by its dotted path, and `root` the folder that holds the project.
    """

    path: Path
    files: tuple[Path, ...]
    origins: Mapping[str, str]
    root: Path

    def where(self, key: str) -> str:
        """`file:line` of a dotted key; the file that was named where the key is a default."""
        return self.origins.get(key, str(self.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A checked configuration; field names are the YAML keys. Two are equal when their values are, wherever written."""

    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    custom: CustomConfig
    global_max_length: int
    template: TemplateConfig = field(default_factory=TemplateConfig)
    tuner: TunerConfig = field(default_factory=TunerConfig)
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    rlhf: RlhfConfig = field(default_factory=RlhfConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)
    deepspeed: DeepspeedConfig = field(default_factory=DeepspeedConfig)
    stage2_ab: Stage2AbConfig | None = None
    rollout_matching: RolloutMatchingConfig | None = None
    sources: Sources = field(compare=False, repr=False)
