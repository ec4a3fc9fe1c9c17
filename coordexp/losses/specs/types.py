"""What a module of the objective declares of itself, without torch: its config, what it logs, what that is divided by.

Contract ids: LOSS-026, LOSS-032; `contracts/losses/<module>.schema.json` states the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any, Literal

Variant = Literal["stage1", "stage2_two_channel", "stage2_rollout_aligned"]
Channel = Literal["A", "B"]
DecodeMode = Literal["exp", "st"]
EmbedMode = Literal["soft", "st", "hard"]
CHANNELS: tuple[Channel, ...] = ("A", "B")


class ManifestError(ValueError):
    """A pipeline that can't be run: where, what is wrong, what is allowed."""


@dataclass(frozen=True, slots=True)
class ModuleConfig:
    """Base of every module's config: frozen numbers with defaults, named as in the module's contract."""


@dataclass(frozen=True, slots=True)
class MaskWeights:
    """The weights that fill the mask table; a field is what a cell of contracts/losses/mask_table.yaml names."""

    desc_ce_weight: float
    self_context_struct_ce_weight: float
    rollout_fn_desc_weight: float
    rollout_matched_prefix_struct_weight: float
    rollout_drop_invalid_struct_ce_multiplier: float
    coord_ce_weight: float


class Count(StrEnum):
    """What a sum is divided by, in the words of the contracts' `mean_over`."""

    TEXT_WEIGHT = "weight of struct, desc and end tokens"
    STRUCT_WEIGHT = "weight of struct and end tokens"
    DESC_WEIGHT = "weight of desc tokens"
    COORD_WEIGHT = "weight of coord tokens of the gt context"
    TEXT_TOKENS = "struct and desc tokens of positive weight"
    SLOTS = "coord slots"
    BOXES = "boxes"

    @property
    def of_coord_losses(self) -> bool:
        """Whether it is counted only in forwards that take coordinate and box losses."""
        return self in (Count.TEXT_TOKENS, Count.SLOTS, Count.BOXES)


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a component, `loss/<component>/<name>`; `weight` is the key of its module's config that weighs it."""

    name: str
    weight: str
    count: Count


@dataclass(frozen=True, slots=True)
class Component:
    """What is logged as `loss/<name>`: a term of its own, which has a `count`, or the weighted sum of `terms`."""

    name: str
    count: Count | None = None
    terms: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """A module as it registers itself: `SPEC` of `coordexp.losses.specs.<name>`.

    `build` makes the module from its config. `joint` is a count that divides several components together; it stands
    under the module's name. `mask_keys` are the config keys that fill the mask table: those of a disabled module count
    as their defaults, unless `masks_when_disabled`.
    """

    name: str
    config: type[ModuleConfig]
    build: Callable[[Any], Any]
    components: tuple[Component, ...] = ()
    joint: Count | None = None
    mask_keys: tuple[str, ...] = ()
    masks_when_disabled: bool = False


def built_by(symbol: str) -> Callable[[Any], Any]:
    """A constructor by `module:class`, imported when it is first called: its module needs torch, a spec does not."""
    module, _, name = symbol.partition(":")

    def build(config: Any) -> Any:
        return getattr(import_module(module), name)(config)

    return build
