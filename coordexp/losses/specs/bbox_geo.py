"""Registers `bbox_geo`: losses of decoded boxes. Contract ids: LOSS-014, LOSS-026."""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.losses.specs.types import Component, Count, ModuleConfig, ModuleSpec, Term, built_by


@dataclass(frozen=True, slots=True)
class BboxGeoConfig(ModuleConfig):
    """Weights of the two box terms."""

    smoothl1_weight: float = 1.0
    ciou_weight: float = 1.0


TERMS = (Term("smoothl1", "smoothl1_weight", Count.BOXES), Term("ciou", "ciou_weight", Count.BOXES))
SPEC = ModuleSpec(
    name="bbox_geo",
    config=BboxGeoConfig,
    build=built_by("coordexp.losses.modules.bbox_geo:BboxGeo"),
    components=(Component("geo", terms=TERMS),),
)
