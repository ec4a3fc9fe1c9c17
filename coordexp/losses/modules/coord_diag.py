"""How good the coord distribution is, by forward of origin; no gradient. Contract ids: LOSS-021.

Keys: `coord_diag/<provenance>/<name>`; `expected_bin_*` are in bins, the others in [0, 1] (margins in logits).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coordexp.coords.codec import MAX_BIN
from coordexp.losses.coord_atoms import decode
from coordexp.losses.modules.types import Forwarded, Gauge

if TYPE_CHECKING:
    from coordexp.losses.specs.coord_diag import CoordDiagConfig

_TOP = 5


@dataclass(frozen=True, slots=True)
class CoordDiag:
    """Measured at every supervised coord slot."""

    config: CoordDiagConfig
    needs_coord_mass: bool = True

    def measure(self, forwarded: Forwarded) -> dict[str, Gauge]:
        """Nothing where there is no slot: absent is not 0."""
        context = forwarded.context
        count = context.slot_bins.shape[0]
        if count == 0:
            return {}
        bins, logits = context.slot_bins[:, None], forwarded.vocabulary.coord_logits.detach()
        target = logits.gather(1, bins)
        best_other = logits.scatter(1, bins, -torch.inf).amax(1, keepdim=True)
        error = (MAX_BIN * decode(forwarded.p.detach(), "exp") - bins.squeeze(1)).abs()
        per_slot = {
            "acc_top5": ((logits > target).sum(1) < _TOP).to(logits.dtype),
            "p_gt_mean": forwarded.p.detach().gather(1, bins).squeeze(1),
            "margin_mean": (target - best_other).squeeze(1),
            "expected_bin_mae": error,
            "coord_vocab_mass_mean": forwarded.vocabulary.coord_mass[context.slot_rows],
        }
        gauges = {name: Gauge(values.sum(), count) for name, values in per_slot.items()}
        gauges["expected_bin_abs_err_p90"] = Gauge(error.quantile(0.9), 1)
        return {f"coord_diag/{context.provenance}/{name}": gauge for name, gauge in gauges.items()}
