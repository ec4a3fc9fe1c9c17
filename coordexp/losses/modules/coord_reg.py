"""Coordinate terms, each the mean over its contributing positions, and coord-token CE in the gt context.

Contract ids: LOSS-010, LOSS-024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coordexp.encode.types import TokenType
from coordexp.losses import coord_atoms
from coordexp.losses.masks import ContextKind
from coordexp.losses.modules.types import Coefficients, Forwarded, ModuleOutput
from coordexp.losses.normalizers import Normalizers, TermSum

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordexp.losses.context import TeacherForcingContext
    from coordexp.losses.specs import CoordRegConfig


@dataclass(frozen=True, slots=True)
class CoordReg:
    """Its config weighs the terms.

    `coord_ce_weight` means full-vocabulary CE on coord tokens in the gt context (`coord_token_ce`), and CE over the
    1000 coord ids elsewhere (`coord_reg/coord_ce`), where the mask table gives coord tokens no full-vocabulary CE.
    """

    config: CoordRegConfig

    def plan(
        self, coefficients: Coefficients, context: TeacherForcingContext, normalizers: Normalizers, weight: float
    ) -> None:
        """Coord-token CE and both gates."""
        config = self.config
        tokens = slice(context.predict.shape[0])
        coord = torch.where(context.of_type(TokenType.COORD), context.weight, 0.0)
        coefficients.ce[tokens] += weight * config.coord_ce_weight * normalizers.share("coord_token_ce") * coord
        if not context.takes_coord_losses:
            return
        coefficients.coord_gate[context.slot_rows] += (
            weight * config.coord_gate_weight * normalizers.share("coord_gate")
        )
        coefficients.text_gate[tokens] += (
            weight * config.text_gate_weight * normalizers.share("text_gate") * context.text
        )

    def compute(self, forwarded: Forwarded, normalizers: Normalizers, weight: float) -> ModuleOutput:
        """The terms of the coord distribution, and the sums of those that the vocabulary pass holds."""
        terms = self._vocabulary_terms(forwarded)
        if not forwarded.context.takes_coord_losses:
            return ModuleOutput(terms=terms)
        count = forwarded.context.weight.new_tensor(forwarded.p.shape[0])
        loss = forwarded.p.new_zeros(())
        for name, (term_weight, measure) in self._distribution_terms(forwarded).items():
            if term_weight == 0:
                continue
            total = measure().sum()
            loss = loss + weight * term_weight * normalizers.share(name).to(total.dtype) * total
            terms[name] = TermSum(total, count, term_weight)
        return ModuleOutput(loss, terms)

    def _vocabulary_terms(self, forwarded: Forwarded) -> dict[str, TermSum]:
        context, vocabulary = forwarded.context, forwarded.vocabulary
        n_tokens = context.predict.shape[0]
        terms = {}
        if self.config.coord_ce_weight > 0 and context.kind is ContextKind.GT:
            coord = torch.where(context.of_type(TokenType.COORD), context.weight, 0.0)
            terms["coord_token_ce"] = TermSum((coord * vocabulary.ce[:n_tokens]).sum(), coord.sum())
        if not context.takes_coord_losses:
            return terms
        if self.config.coord_gate_weight > 0:
            terms["coord_gate"] = TermSum(
                vocabulary.coord_gate[context.slot_rows].sum(),
                context.weight.new_tensor(context.slot_rows.shape[0]),
                self.config.coord_gate_weight,
            )
        if self.config.text_gate_weight > 0:
            terms["text_gate"] = TermSum(
                (vocabulary.text_gate[:n_tokens] * context.text).sum(), context.text.sum(), self.config.text_gate_weight
            )
        return terms

    def _distribution_terms(self, forwarded: Forwarded) -> dict[str, tuple[float, Callable[[], torch.Tensor]]]:
        config, log_p, p, bins = self.config, forwarded.log_p, forwarded.p, forwarded.context.slot_bins
        kind = forwarded.context.kind
        soft_ce = config.self_context_soft_ce_weight if kind is ContextKind.SELF_CONTEXT else config.soft_ce_weight

        def target() -> torch.Tensor:
            return coord_atoms.gaussian_target(bins, config.target_sigma, config.target_truncate, p.dtype)

        return {
            "soft_ce": (soft_ce, lambda: coord_atoms.soft_cross_entropy(log_p, target())),
            "w1": (config.w1_weight, lambda: coord_atoms.wasserstein(p, target())),
            "entropy": (config.coord_entropy_weight, lambda: coord_atoms.entropy(log_p)),
            "expected_l1": (config.coord_el1_weight, lambda: coord_atoms.expected_l1(p, bins)),
            "expected_huber": (
                config.coord_ehuber_weight,
                lambda: coord_atoms.expected_huber(p, bins, config.coord_huber_delta),
            ),
            "coord_ce": (
                0.0 if kind is ContextKind.GT else config.coord_ce_weight,
                lambda: coord_atoms.cross_entropy(log_p, bins),
            ),
        }
