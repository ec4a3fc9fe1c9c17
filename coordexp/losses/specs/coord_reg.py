"""Registers `coord_reg`: terms of the coord distribution. Contract ids: LOSS-010, LOSS-026."""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.losses.specs.types import Component, Count, ModuleConfig, ModuleSpec, Term, built_by


@dataclass(frozen=True, slots=True)
class CoordRegConfig(ModuleConfig):
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


TERMS = (
    Term("soft_ce", "soft_ce_weight", Count.SLOTS),
    Term("w1", "w1_weight", Count.SLOTS),
    Term("entropy", "coord_entropy_weight", Count.SLOTS),
    Term("coord_gate", "coord_gate_weight", Count.SLOTS),
    Term("text_gate", "text_gate_weight", Count.TEXT_TOKENS),
    Term("expected_l1", "coord_el1_weight", Count.SLOTS),
    Term("expected_huber", "coord_ehuber_weight", Count.SLOTS),
    Term("coord_ce", "coord_ce_weight", Count.SLOTS),
)
SPEC = ModuleSpec(
    name="coord_reg",
    config=CoordRegConfig,
    build=built_by("coordexp.losses.modules.coord_reg:CoordReg"),
    components=(Component("coord_token_ce", Count.COORD_WEIGHT), Component("coord_reg", terms=TERMS)),
    mask_keys=("coord_ce_weight",),
)
