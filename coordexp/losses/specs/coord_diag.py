"""Registers `coord_diag`: how good the coord distribution is. Contract ids: LOSS-021, LOSS-026."""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.losses.specs.types import ModuleConfig, ModuleSpec, built_by


@dataclass(frozen=True, slots=True)
class CoordDiagConfig(ModuleConfig):
    """`coord_diag` has no knobs."""


SPEC = ModuleSpec("coord_diag", CoordDiagConfig, built_by("coordexp.losses.modules.coord_diag:CoordDiag"))
