"""Token types and subsets in, cross-entropy weights out: the runtime's mask table.

Contract ids: LOSS-001, LOSS-003; the subsets are those of REG-1.2 and REG-1.4.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import torch

from coordexp.encode.types import TokenSubset, TokenType

if TYPE_CHECKING:
    from coordexp.losses.specs.types import Channel, MaskWeights


class ContextKind(StrEnum):
    """What the model was fed when it produced the hidden states."""

    GT = "gt"
    SELF_CONTEXT = "self_context"
    ROLLOUT = "rollout"


class Provenance(StrEnum):
    """Which forward of which trainer a context belongs to."""

    STAGE1 = "stage1"
    A1 = "A1"
    A2 = "A2"
    B = "B"

    @property
    def kind(self) -> ContextKind:
        """gt for stage 1 and the Channel-A anchor, self_context for Channel A's last forward, rollout for B."""
        if self is Provenance.A2:
            return ContextKind.SELF_CONTEXT
        return ContextKind.ROLLOUT if self is Provenance.B else ContextKind.GT

    @property
    def channel(self) -> Channel | None:
        """Stage-2 channel, or None in stage 1, where every enabled module runs."""
        if self is Provenance.STAGE1:
            return None
        return "B" if self is Provenance.B else "A"

    @property
    def takes_coord_losses(self) -> bool:
        """Geometry and coordinate terms come from every forward but the Channel-A anchor (AUDIT-6.3)."""
        return self is not Provenance.A1


_ROLLOUT_SUBSETS = (
    TokenSubset.MATCHED,
    TokenSubset.FP,
    TokenSubset.DROPPED,
    TokenSubset.FN,
    TokenSubset.OPENING,
    TokenSubset.OPENING_INJECTED,
    TokenSubset.CLOSURE,
)
KNOWN_SUBSETS: dict[ContextKind, tuple[TokenSubset, ...]] = {
    ContextKind.GT: (TokenSubset.GT,),
    ContextKind.SELF_CONTEXT: (TokenSubset.GT,),
    ContextKind.ROLLOUT: _ROLLOUT_SUBSETS,
}


def weight_table(kind: ContextKind, weights: MaskWeights) -> torch.Tensor:
    """Weights float64 [subset, type] of `kind`; a cell that is not named is 0, so false positives are neutral."""
    table = torch.zeros(len(TokenSubset), len(TokenType), dtype=torch.float64)

    def put(subset: TokenSubset, **cells: float) -> None:
        for name, weight in cells.items():
            table[subset, TokenType[name]] = weight

    if kind is ContextKind.GT:
        put(TokenSubset.GT, STRUCT=1.0, DESC=weights.desc_ce_weight, COORD=weights.coord_ce_weight, EOS=1.0)
    elif kind is ContextKind.SELF_CONTEXT:
        put(TokenSubset.GT, STRUCT=weights.self_context_struct_ce_weight, EOS=weights.self_context_struct_ce_weight)
    else:
        put(TokenSubset.MATCHED, STRUCT=weights.rollout_matched_prefix_struct_weight)
        put(TokenSubset.FN, STRUCT=1.0, DESC=weights.rollout_fn_desc_weight)
        put(TokenSubset.OPENING_INJECTED, STRUCT=1.0)
        put(TokenSubset.CLOSURE, STRUCT=1.0, EOS=1.0)
    return table
