"""What in a configuration does not mean what it seems to. In: a `Config`; out: warnings, no errors. CONFIG-023."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordexp.config.types import Config

# Rounding of a sum of three written decimals; no knob is meant that finely.
_ROUNDING = 1e-9


def config_warnings(config: Config) -> tuple[Problem, ...]:
    """Every warning about `config`, each with its key and place; it is shown, and the configuration is used."""
    return tuple(_overridden_gate(config))


def _overridden_gate(config: Config) -> Iterator[Problem]:
    """Costs of leaving objects alone that keep pairs apart which `maskiou_gate` lets through."""
    knobs = config.rollout_matching
    if knobs is None:
        return
    in_force = 1.0 - knobs.fp_cost - knobs.fn_cost
    if in_force <= knobs.maskiou_gate + _ROUNDING:
        return
    keys = [f"rollout_matching.{name}" for name in ("maskiou_gate", "fp_cost", "fn_cost")]
    key = next((key for key in keys if key in config.sources.origins), keys[0])
    text = f"leaving a pair apart costs fp_cost {knobs.fp_cost} + fn_cost {knobs.fn_cost}, so none of mask IoU below "
    text += f"{in_force:.10g} is matched, and maskiou_gate {knobs.maskiou_gate} is not the gate in force; "
    text += f"raise a cost, or write maskiou_gate: {in_force:.10g}"
    yield Problem(tuple(key.split(".")), text, config.sources.where(key))
