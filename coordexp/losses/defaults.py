"""Flat knobs in, the default pipeline manifest of each trainer out, without torch. Contract ids: LOSS-05x, contract-facts section 6."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from coordexp.losses.manifest import Manifest, ModuleEntry
from coordexp.losses.specs import (
    BboxGeoConfig,
    CoordDiagConfig,
    CoordRegConfig,
    DecodeMode,
    TokenCEConfig,
)


class CoordSoftKnobs(Protocol):
    """The section `custom.coord_soft_ce_w1`."""

    @property
    def enabled(self) -> bool: ...
    @property
    def ce_weight(self) -> float: ...
    @property
    def soft_ce_weight(self) -> float: ...
    @property
    def w1_weight(self) -> float: ...
    @property
    def gate_weight(self) -> float: ...
    @property
    def temperature(self) -> float: ...
    @property
    def target_sigma(self) -> float: ...
    @property
    def target_truncate(self) -> int | None: ...


def stage1_manifest(desc_ce_weight: float = 1.0, coord: CoordSoftKnobs | None = None, geo: BboxGeoConfig | None = None,
                    coord_decode_mode: DecodeMode = "exp") -> Manifest:
    """Stage 1: CE on text, `coord` on coord positions when it is enabled, `geo` on boxes when it is given."""
    objective = [ModuleEntry("token_ce", TokenCEConfig(desc_ce_weight=desc_ce_weight))]
    if geo is not None:
        objective.append(ModuleEntry("bbox_geo", geo))
    if coord is not None and coord.enabled:
        objective.append(ModuleEntry("coord_reg", _coord_reg(coord)))
    extra = {"variant": "stage1"}
    if geo is not None:
        extra["custom.coord_decode_mode"] = coord_decode_mode
    return Manifest(tuple(objective), (ModuleEntry("coord_diag", CoordDiagConfig()),), extra)


def _coord_reg(coord: CoordSoftKnobs) -> CoordRegConfig:
    return CoordRegConfig(
        coord_ce_weight=coord.ce_weight, coord_gate_weight=coord.gate_weight, soft_ce_weight=coord.soft_ce_weight,
        w1_weight=coord.w1_weight, self_context_soft_ce_weight=coord.soft_ce_weight, temperature=coord.temperature,
        target_sigma=coord.target_sigma, target_truncate=coord.target_truncate)
