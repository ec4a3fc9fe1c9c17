"""Config in, what of it decides the tokens out. Contract ids: ENC-*."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordexp.config.types import Config
    from coordexp.coordjson.render import FieldOrder
    from coordexp.encode.prompts import Ordering, Variant


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """The orders and the prompt, and two caps.

    `max_pixels` bounds width x height of an image (None: no cap); `max_length` counts the whole sample's tokens,
    vision ones included.
    """

    field_order: FieldOrder = "desc_first"
    ordering: Ordering = "sorted"
    variant: Variant = "default"
    max_pixels: int | None = None
    max_length: int = 4096


def build_settings(config: Config) -> EncodeSettings:
    """The encoder's part of a configuration."""
    return EncodeSettings(
        field_order=config.custom.object_field_order,
        ordering=config.custom.object_ordering,
        variant=config.custom.prompt_variant,
        max_pixels=config.template.max_pixels,
        max_length=config.global_max_length,
    )
