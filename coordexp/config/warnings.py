"""What in a configuration does not mean what it seems to. In: a `Config`; out: warnings, no errors.

Contract ids: CONFIG-023, CONFIG-026, CONFIG-034.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.config.problems import Problem, render_path
from coordexp.config.rules import build_rule
from coordexp.config.trainable import FLOAT32_ADVICE, build_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from coordexp.config.types import Config

# Rounding of a sum of three written decimals; no knob is meant that finely.
_ROUNDING = 1e-9
_STAND_STILL = (
    "loses every update below the last bit of a weight: of a model tuned in full at learning rate 2e-6, 0.6 to 1.1% of "
    "the weights moved in 4 steps, and 94.5 to 99.9% of float32 ones"
)


def config_warnings(config: Config) -> tuple[Problem, ...]:
    """Every warning about `config`, each with its key and place; it is shown, and the configuration is used."""
    return tuple(problem for check in _CHECKS for problem in check(config))


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
    yield build_problem(config, key, text)


def _rounded_weights(config: Config) -> Iterator[Problem]:
    """bfloat16 weights that are trained themselves, without a float32 copy beside them, mostly stand still."""
    tuner = config.tuner
    if config.model.torch_dtype != "bfloat16" or _has_masters(config):
        return
    masters = f"{FLOAT32_ADVICE}, or train under deepspeed.config: zero2, which keeps float32 masters"
    if tuner.tuner_type == "full":
        if not (tuner.freeze_llm and tuner.freeze_vit and tuner.freeze_aligner):
            text = f"full tuning of bfloat16 weights {_STAND_STILL}; {masters}"
            yield build_problem(config, "model.torch_dtype", text)
        return
    for key, trained in (("modules_to_save", bool(tuner.modules_to_save)), ("lora_bias", tuner.lora_bias != "none")):
        if trained:
            text = f"what is trained whole keeps model.torch_dtype bfloat16, which {_STAND_STILL}; {masters}"
            yield build_problem(config, f"tuner.{key}", text)


def _rounded_offsets(config: Config) -> Iterator[Problem]:
    """Coord offsets in bfloat16 come to rest as soon as they are 512 times their update."""
    offsets = config.custom.coord_offset
    if offsets.enabled and offsets.dtype == "bfloat16" and not _has_masters(config):
        text = "an offset in bfloat16 loses every update below 1/512 of it: in the last steps of a run 6% of them "
        text += "moved, and all of the float32 ones; write auto, which is float32"
        yield build_problem(config, "custom.coord_offset.dtype", text)


def _has_masters(config: Config) -> bool:
    """Whether DeepSpeed keeps float32 copies of what is trained and updates those: under bf16, and ZeRO always."""
    return config.deepspeed.enabled and (config.training.bf16 or config.deepspeed.config != "zero0")


def _self_context_weight(config: Config) -> Iterator[Problem]:
    """An authored soft CE of another weight in Channel A, where a default that is not written takes its place."""
    two_channel = config.stage2_ab
    if two_channel is None or two_channel.pipeline is None or two_channel.schedule.b_ratio >= 1:
        return
    default = (build_rule("coordexp:losses/coord_reg").properties or {})["self_context_soft_ce_weight"].default
    for index, entry in enumerate(two_channel.pipeline.objective):
        if entry.name != "coord_reg" or not entry.enabled or not entry.weight or "A" not in entry.channels:
            continue
        # An entry that leaves soft_ce_weight out asks for none.
        written = {"soft_ce_weight": 0.0, **entry.config}["soft_ce_weight"]
        if written > 0 and written != default and "self_context_soft_ce_weight" not in entry.config:
            text = f"is {written} in Channel B alone: Channel A takes self_context_soft_ce_weight, which is {default} "
            text += f"unless it is written; write self_context_soft_ce_weight: {written} for the same in both, or "
            text += f"{default} to keep it"
            path = ("stage2_ab", "pipeline", "objective", index, "config", "soft_ce_weight")
            yield Problem(path, text, config.sources.where(render_path(path)))


_CHECKS: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    _overridden_gate,
    _rounded_weights,
    _rounded_offsets,
    _self_context_weight,
)
