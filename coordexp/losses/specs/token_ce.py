"""Registers `token_ce`: cross-entropy on text tokens. Contract ids: LOSS-006, LOSS-026."""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.losses.specs.types import Component, Count, ModuleConfig, ModuleSpec, built_by


@dataclass(frozen=True, slots=True)
class TokenCEConfig(ModuleConfig):
    """Weights of the cross-entropy mask table in coordexp.losses.masks (LOSS-001, REG-1.4)."""

    desc_ce_weight: float = 1.0
    self_context_struct_ce_weight: float = 0.1
    rollout_fn_desc_weight: float = 1.0
    rollout_matched_prefix_struct_weight: float = 1.0
    rollout_drop_invalid_struct_ce_multiplier: float = 1.0


SPEC = ModuleSpec(
    name="token_ce",
    config=TokenCEConfig,
    build=built_by("coordexp.losses.modules.token_ce:TokenCE"),
    components=(Component("struct_ce", Count.STRUCT_WEIGHT), Component("desc_ce", Count.DESC_WEIGHT)),
    # One sum of weights divides both, so that the weights have an effect.
    joint=Count.TEXT_WEIGHT,
    mask_keys=(
        "desc_ce_weight",
        "self_context_struct_ce_weight",
        "rollout_fn_desc_weight",
        "rollout_matched_prefix_struct_weight",
        "rollout_drop_invalid_struct_ce_multiplier",
    ),
    # The text gate reads which text tokens have a weight, whether their cross-entropy is on or not.
    masks_when_disabled=True,
)
