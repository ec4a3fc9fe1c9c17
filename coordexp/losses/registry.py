"""Module names to their classes; `contracts/losses/` and `losses.specs` list the same names. Contract ids: LOSS-026."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from coordexp.losses.manifest import ManifestError
from coordexp.losses.modules.bbox_geo import BboxGeo
from coordexp.losses.modules.coord_diag import CoordDiag
from coordexp.losses.modules.coord_reg import CoordReg
from coordexp.losses.modules.mask_counts import MaskCounts
from coordexp.losses.modules.token_ce import TokenCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordexp.losses.manifest import ModuleEntry
    from coordexp.losses.modules.types import DiagnosticModule, ObjectiveModule

Module = TypeVar("Module")
OBJECTIVE_MODULES: dict[str, Callable[[Any], ObjectiveModule]] = {
    "token_ce": TokenCE,
    "bbox_geo": BboxGeo,
    "coord_reg": CoordReg,
}
DIAGNOSTIC_MODULES: dict[str, Callable[[Any], DiagnosticModule]] = {"coord_diag": CoordDiag, "mask_counts": MaskCounts}


def build_objective_module(entry: ModuleEntry) -> ObjectiveModule:
    """The objective module that `entry` names, with its config."""
    return _registered(entry, OBJECTIVE_MODULES, "objective")(entry.config)


def build_diagnostic_module(entry: ModuleEntry) -> DiagnosticModule:
    """The diagnostics module that `entry` names, with its config."""
    return _registered(entry, DIAGNOSTIC_MODULES, "diagnostics")(entry.config)


def _registered(entry: ModuleEntry, modules: dict[str, Module], section: str) -> Module:
    if entry.name not in modules:
        raise ManifestError(f"{entry.name!r} is no {section} module; there are {', '.join(modules)}")
    return modules[entry.name]
