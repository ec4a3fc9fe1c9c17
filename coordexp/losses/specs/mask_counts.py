"""Registers `mask_counts`: what share of the positions is supervised. Contract ids: LOSS-020, LOSS-026."""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.losses.specs.types import ModuleConfig, ModuleSpec, built_by


@dataclass(frozen=True, slots=True)
class MaskCountsConfig(ModuleConfig):
    """`mask_counts` has no knobs."""


SPEC = ModuleSpec("mask_counts", MaskCountsConfig, built_by("coordexp.losses.modules.mask_counts:MaskCounts"))
