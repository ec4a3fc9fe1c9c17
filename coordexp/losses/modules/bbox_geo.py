"""SmoothL1 and CIoU between decoded and target boxes, mean over boxes. Contract ids: LOSS-004, LOSS-014."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.losses.boxes import canonicalize, complete_iou_loss, smooth_l1
from coordexp.losses.coord_atoms import bin_values, decode
from coordexp.losses.modules.types import Coefficients, Forwarded, ModuleOutput
from coordexp.losses.normalizers import Normalizers, TermSum
from coordexp.losses.specs.bbox_geo import TERMS, BboxGeoConfig

if TYPE_CHECKING:
    from coordexp.losses.context import TeacherForcingContext

MEASURES = {"smoothl1": smooth_l1, "ciou": complete_iou_loss}
"""Each term's value [M] from decoded and target boxes [M, 4]."""


@dataclass(frozen=True, slots=True)
class BboxGeo:
    """Boxes of ground truth, matched and injected objects; false positives are not among the context's boxes."""

    config: BboxGeoConfig
    grades_slots: bool = False

    def plan(
        self, coefficients: Coefficients, context: TeacherForcingContext, normalizers: Normalizers, weight: float
    ) -> None:
        """Nothing here needs the whole vocabulary."""

    def compute(self, forwarded: Forwarded, normalizers: Normalizers, weight: float) -> ModuleOutput:
        """`smoothl1` and `ciou`; a term of weight 0 is left out."""
        context = forwarded.context
        if not context.takes_coord_losses:
            return ModuleOutput()
        values = bin_values(forwarded.p)
        boxes = canonicalize(decode(forwarded.p, forwarded.decode_mode)[context.boxes])
        target = canonicalize(values[context.slot_bins][context.boxes])
        loss = boxes.new_zeros(())
        terms = {}
        for term in TERMS:
            term_weight = getattr(self.config, term.weight)
            if term_weight == 0:
                continue
            total = MEASURES[term.name](boxes, target).sum()
            loss = loss + weight * term_weight * normalizers.share(term.name).to(total.dtype) * total
            terms[term.name] = TermSum(total, context.weight.new_tensor(boxes.shape[0]), term_weight)
        return ModuleOutput(loss, terms)
