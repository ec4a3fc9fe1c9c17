"""A configuration in, the manifest of its objective out: authored, or resolved from flat knobs. No torch.

Contract ids: LOSS-015, LOSS-017; REG-3.3, REG-9.1B.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from coordexp.losses.manifest import Manifest, ModuleEntry, describe_modules, parse_modules, render_canonical
from coordexp.losses.registry import DIAGNOSTIC_MODULES, OBJECTIVE_MODULES
from coordexp.losses.specs.types import ManifestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordexp.config.rollout_sections import PipelineConfig, RolloutMatchingConfig, Stage2AbConfig
    from coordexp.config.sections import CoordSoftCeW1Config, CustomConfig
    from coordexp.config.types import Config

# Flat knob of `stage2_ab` → the (module, key) pairs it sets.
FLAT_KNOBS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "desc_ce_weight": (("token_ce", "desc_ce_weight"), ("token_ce", "rollout_fn_desc_weight")),
    "fmt_struct_ce_weight": (("token_ce", "self_context_struct_ce_weight"),),
    "channel_b.drop_invalid_struct_ce_multiplier": (("token_ce", "rollout_drop_invalid_struct_ce_multiplier"),),
    "bbox_smoothl1_weight": (("bbox_geo", "smoothl1_weight"),),
    "bbox_ciou_weight": (("bbox_geo", "ciou_weight"),),
    **{
        name: (("coord_reg", name),)
        for name in (
            "coord_ce_weight",
            "coord_el1_weight",
            "coord_ehuber_weight",
            "coord_entropy_weight",
            "coord_gate_weight",
            "text_gate_weight",
        )
    },
}
# Keys of `custom.coord_soft_ce_w1` that `coord_reg` takes in every variant; two-channel has its own gates and CE.
_DISTRIBUTION_KEYS = ("soft_ce_weight", "w1_weight", "temperature", "target_sigma", "target_truncate")


def resolve_manifest(config: Config) -> Manifest:
    """The objective of `config`'s trainer variant; raises `ManifestError` when it is stated twice."""
    custom = config.custom
    variant = custom.trainer_variant
    if variant == "stage1":
        return stage1_manifest(custom)
    section, other = ("stage2_ab", "rollout_matching")
    if variant == "stage2_rollout_aligned":
        section, other = other, section
    wanted, unwanted = getattr(config, section), getattr(config, other)
    if wanted is None:
        raise ManifestError(f"custom.trainer_variant {variant} needs the section {section}")
    if unwanted is not None and unwanted.pipeline is not None:
        raise ManifestError(f"{other}.pipeline has no effect under {variant}: move it to {section}.pipeline")
    if variant == "stage2_two_channel":
        return two_channel_manifest(wanted, custom.coord_soft_ce_w1)
    return rollout_aligned_manifest(wanted, custom.coord_soft_ce_w1)


def stage1_manifest(custom: CustomConfig) -> Manifest:
    """CE on text, `coord_soft_ce_w1` on coord positions and `bbox_geo` on boxes where they are enabled."""
    modules: dict[str, dict[str, Any]] = {"token_ce": {"desc_ce_weight": custom.desc_ce_weight}}
    if custom.bbox_geo.enabled:
        modules["bbox_geo"] = {key: _read(custom.bbox_geo, key) for key in ("smoothl1_weight", "ciou_weight")}
    if custom.coord_soft_ce_w1.enabled:
        modules["coord_reg"] = _all_coord_terms(custom.coord_soft_ce_w1)
    return Manifest(_entries(modules), _diagnostics())


def two_channel_manifest(stage2_ab: Stage2AbConfig, coord: CoordSoftCeW1Config) -> Manifest:
    """The default pipeline from flat knobs, or the authored one."""
    if stage2_ab.pipeline is not None:
        _check_single_mode(stage2_ab, coord)
        objective, diagnostics = _authored(stage2_ab.pipeline, "stage2_ab.pipeline")
    else:
        modules: dict[str, dict[str, Any]] = {"token_ce": {}, "bbox_geo": {}, "coord_reg": _distribution_terms(coord)}
        for knob, targets in FLAT_KNOBS.items():
            for module, key in targets:
                modules[module][key] = _read(stage2_ab, knob)
        objective, diagnostics = _entries(modules), _diagnostics()
    decode, embed = stage2_ab.coord_decode_mode, stage2_ab.coord_ctx_embed_mode
    return Manifest(objective, diagnostics, "stage2_two_channel", decode, embed)


def rollout_aligned_manifest(rollout_matching: RolloutMatchingConfig, coord: CoordSoftCeW1Config) -> Manifest:
    """The default pipeline, whose coordinate terms are those of `coord_soft_ce_w1`, or the authored one."""
    if rollout_matching.pipeline is not None:
        if coord.enabled:
            raise ManifestError(_said_twice("rollout_matching", "custom.coord_soft_ce_w1", "coord_reg"))
        objective, diagnostics = _authored(rollout_matching.pipeline, "rollout_matching.pipeline")
    else:
        coord_terms = _all_coord_terms(coord) if coord.enabled else _distribution_terms(coord)
        objective = _entries({"token_ce": {}, "bbox_geo": {}, "coord_reg": coord_terms})
        diagnostics = _diagnostics()
    return Manifest(objective, diagnostics, "stage2_rollout_aligned", rollout_matching.coord_decode_mode)


def describe_objective(config: Config, manifest: Manifest) -> str:
    """What a run logs when it starts (REG-3.4, REG-3B.3): where the objective is stated, its modules and checksum, and
    the whole resolved pipeline.
    """
    return (
        f"config: {config.sources.path}; run_name: {config.training.run_name}; seed: {config.training.seed}; "
        f"{describe_modules(manifest)}\nresolved pipeline: {render_canonical(manifest)}"
    )


def _authored(pipeline: PipelineConfig, where: str) -> tuple[tuple[ModuleEntry, ...], tuple[ModuleEntry, ...]]:
    """The objective and diagnostics entries of an authored pipeline."""
    objective, diagnostics = (
        parse_modules([_as_authored(entry) for entry in getattr(pipeline, section)], section, where)
        for section in ("objective", "diagnostics")
    )
    return objective, diagnostics


def _as_authored(entry: Any) -> dict[str, Any]:
    return dataclasses.asdict(entry) | {"channels": list(entry.channels), "config": dict(entry.config)}


def _check_single_mode(stage2_ab: Stage2AbConfig, coord: CoordSoftCeW1Config) -> None:
    """The loader refuses authored flat knobs by name; this refuses those that would change the objective."""
    defaults = type(stage2_ab)(schedule=stage2_ab.schedule)
    for knob, targets in FLAT_KNOBS.items():
        if _read(stage2_ab, knob) != _read(defaults, knob):
            raise ManifestError(
                _said_twice(
                    "stage2_ab", f"stage2_ab.{knob}", " and ".join(f"{module} {key}" for module, key in targets)
                )
            )
    if coord.enabled:
        raise ManifestError(_said_twice("stage2_ab", "custom.coord_soft_ce_w1", "coord_reg"))


def _said_twice(section: str, knob: str, target: str) -> str:
    return f"{section}.pipeline is authored, so {knob} has no effect: delete it and set the module config of {target}"


def _read(section: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        section = getattr(section, name)
    return section


def _distribution_terms(coord: CoordSoftCeW1Config) -> dict[str, Any]:
    if not coord.enabled:
        return {}
    terms = {key: _read(coord, key) for key in _DISTRIBUTION_KEYS}
    return terms | {"self_context_soft_ce_weight": coord.soft_ce_weight}


def _all_coord_terms(coord: CoordSoftCeW1Config) -> dict[str, Any]:
    return _distribution_terms(coord) | {
        "coord_ce_weight": coord.ce_weight,
        "coord_gate_weight": coord.gate_weight,
        "text_gate_weight": coord.text_gate_weight,
    }


def _entries(modules: Mapping[str, Mapping[str, Any]]) -> tuple[ModuleEntry, ...]:
    return tuple(ModuleEntry(name, OBJECTIVE_MODULES[name].config(**config)) for name, config in modules.items())


def _diagnostics() -> tuple[ModuleEntry, ...]:
    return (ModuleEntry("coord_diag", DIAGNOSTIC_MODULES["coord_diag"].config()),)
