"""Module configs and term names of the objective, without torch.

Contract ids: LOSS-026; `contracts/losses/` states the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DecodeMode = Literal["exp", "st"]
Channel = Literal["A", "B"]
CHANNELS: tuple[Channel, ...] = ("A", "B")

COORD_REG_TERMS = ("soft_ce", "w1", "entropy", "coord_gate", "text_gate", "expected_l1", "expected_huber", "coord_ce")
GEO_TERMS = ("smoothl1", "ciou")
TERMS = ("struct_ce", "desc_ce", "coord_token_ce", *COORD_REG_TERMS, *GEO_TERMS)
COMPONENTS = ("struct_ce", "desc_ce", "coord_token_ce", "coord_reg", "geo")


@dataclass(frozen=True, slots=True)
class TokenCEConfig:
    """Weights of the cross-entropy mask table (contract-facts section 4)."""

    desc_ce_weight: float = 1.0
    self_context_struct_ce_weight: float = 0.1
    rollout_fn_desc_weight: float = 1.0
    rollout_matched_prefix_struct_weight: float = 1.0
    rollout_drop_invalid_struct_ce_multiplier: float = 1.0


@dataclass(frozen=True, slots=True)
class BboxGeoConfig:
    """Weights of the two box terms."""

    smoothl1_weight: float = 1.0
    ciou_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class CoordRegConfig:
    """Weights of the coordinate terms; a term of weight 0 is neither computed nor logged.

    `temperature` divides the coord logits of every coordinate term and of the box decode. `target_sigma` and
    `target_truncate` are in bins. `self_context_soft_ce_weight` takes the place of `soft_ce_weight` in the self
    context.
    """

    coord_ce_weight: float = 0.0
    coord_el1_weight: float = 0.0
    coord_ehuber_weight: float = 0.0
    coord_huber_delta: float = 0.001
    coord_entropy_weight: float = 0.0
    coord_gate_weight: float = 0.0
    text_gate_weight: float = 0.0
    soft_ce_weight: float = 0.0
    w1_weight: float = 0.0
    self_context_soft_ce_weight: float = 0.05
    temperature: float = 1.0
    target_sigma: float = 2.0
    target_truncate: int | None = None


@dataclass(frozen=True, slots=True)
class CoordDiagConfig:
    """`coord_diag` has no knobs."""


@dataclass(frozen=True, slots=True)
class MaskCountsConfig:
    """`mask_counts` has no knobs."""


ModuleConfig = TokenCEConfig | BboxGeoConfig | CoordRegConfig | CoordDiagConfig | MaskCountsConfig
OBJECTIVE_CONFIGS: dict[str, type[ModuleConfig]] = {
    "token_ce": TokenCEConfig,
    "bbox_geo": BboxGeoConfig,
    "coord_reg": CoordRegConfig,
}
DIAGNOSTIC_CONFIGS: dict[str, type[ModuleConfig]] = {"coord_diag": CoordDiagConfig, "mask_counts": MaskCountsConfig}


@dataclass(frozen=True, slots=True)
class MaskWeights:
    """What fills the weighted cells of the mask table: `token_ce`'s config, and the gt context's coord-token CE."""

    token_ce: TokenCEConfig = TokenCEConfig()
    coord_ce_weight: float = 0.0
