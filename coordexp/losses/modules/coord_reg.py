"""Coordinate terms, each the mean over its contributing positions, and coord-token CE in the gt context.

Contract ids: LOSS-010, LOSS-024.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from coordexp.encode.types import TokenType
from coordexp.losses import coord_atoms
from coordexp.losses.masks import ContextKind
from coordexp.losses.modules.types import Coefficients, Forwarded, ModuleOutput
from coordexp.losses.normalizers import Normalizers, TermSum
from coordexp.losses.specs.coord_reg import TERMS, CoordRegConfig
from coordexp.losses.specs.types import Term

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from coordexp.losses.context import TeacherForcingContext


@dataclass(frozen=True, eq=False)
class CoordSlots:
    """What a term is measured on: the coord distribution `p` [C, 1000] of each slot, and its target bin [C]."""

    log_p: torch.Tensor
    p: torch.Tensor
    bins: torch.Tensor
    config: CoordRegConfig

    @cached_property
    def target(self) -> torch.Tensor:
        """Gaussian target [C, 1000]."""
        config = self.config
        return coord_atoms.gaussian_target(self.bins, config.target_sigma, config.target_truncate, self.p.dtype)


MEASURES: Mapping[str, Callable[[CoordSlots], torch.Tensor]] = {
    "soft_ce": lambda slots: coord_atoms.soft_cross_entropy(slots.log_p, slots.target),
    "w1": lambda slots: coord_atoms.wasserstein(slots.p, slots.target),
    "entropy": lambda slots: coord_atoms.entropy(slots.log_p),
    "expected_l1": lambda slots: coord_atoms.expected_l1(slots.p, slots.bins),
    "expected_huber": lambda slots: coord_atoms.expected_huber(slots.p, slots.bins, slots.config.coord_huber_delta),
    "coord_ce": lambda slots: coord_atoms.cross_entropy(slots.log_p, slots.bins),
}
"""The value [C] of every term of the coord distribution; both gates come from the vocabulary pass."""
_DISTRIBUTION = tuple(term for term in TERMS if term.name not in ("coord_gate", "text_gate"))


@dataclass(frozen=True, slots=True)
class CoordReg:
    """Its config weighs the terms.

    `coord_ce_weight` means full-vocabulary CE on coord tokens in the gt context (`coord_token_ce`), and CE over the
    1000 coord ids elsewhere (`coord_reg/coord_ce`), where the mask table gives coord tokens no full-vocabulary CE.
    """

    config: CoordRegConfig

    @property
    def grades_slots(self) -> bool:
        """The coord gate has a coefficient on every coord slot."""
        return self.config.coord_gate_weight > 0

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
        slots = CoordSlots(forwarded.log_p, forwarded.p, forwarded.context.slot_bins, self.config)
        count = forwarded.context.weight.new_tensor(forwarded.p.shape[0])
        loss = forwarded.p.new_zeros(())
        for term in _DISTRIBUTION:
            term_weight = self._weight(term, forwarded.context.kind)
            if term_weight == 0:
                continue
            total = MEASURES[term.name](slots).sum()
            loss = loss + weight * term_weight * normalizers.share(term.name).to(total.dtype) * total
            terms[term.name] = TermSum(total, count, term_weight)
        return ModuleOutput(loss, terms)

    def _weight(self, term: Term, kind: ContextKind) -> float:
        """The config's, but for two terms that one of the contexts weighs otherwise."""
        if term.name == "soft_ce" and kind is ContextKind.SELF_CONTEXT:
            return self.config.self_context_soft_ce_weight
        if term.name == "coord_ce" and kind is ContextKind.GT:
            return 0.0
        weight: float = getattr(self.config, term.weight)
        return weight

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
