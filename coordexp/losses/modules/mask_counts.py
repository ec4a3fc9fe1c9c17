"""What share of a forward's positions is supervised: the smallest diagnostics module, to copy from.

Contract ids: LOSS-020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.encode.types import TokenType
from coordexp.losses.modules.types import Forwarded, Gauge

if TYPE_CHECKING:
    from coordexp.losses.specs.mask_counts import MaskCountsConfig


@dataclass(frozen=True, slots=True)
class MaskCounts:
    """Switching it on or off changes no loss."""

    config: MaskCountsConfig
    needs_coord_mass: bool = False

    def measure(self, forwarded: Forwarded) -> dict[str, Gauge]:
        """Shares of text and coord targets among all positions of the batch, prompt included."""
        context = forwarded.context
        text = context.of_type(TokenType.STRUCT, TokenType.DESC, TokenType.EOS).sum()
        return {
            f"mask_counts/{context.provenance}/text_frac": Gauge(text, context.n_positions),
            f"mask_counts/{context.provenance}/coord_frac": Gauge(
                text.new_tensor(context.slot_bins.shape[0]), context.n_positions
            ),
        }
