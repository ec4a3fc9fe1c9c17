"""Counts that losses are divided by, known before any forward, and the sums they divide.

Both add up over micro-batches and ranks, so a loss divided by the total is the same however the batch is split.
Contract ids: LOSS-005, LOSS-006, LOSS-022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coordexp.encode.types import TokenType
from coordexp.losses.registry import COMPONENTS, OBJECTIVE_MODULES, TERM_COUNTS, TERMS, loss_key
from coordexp.losses.specs.types import Count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordexp.losses.context import TeacherForcingContext

_JOINT = {spec.name: spec.joint for spec in OBJECTIVE_MODULES.values() if spec.joint is not None}
_COUNTED: dict[str, Count] = _JOINT | TERM_COUNTS
_PLACES = {name: place for place, name in enumerate(_COUNTED)}


@dataclass(frozen=True, eq=False)
class Normalizers:
    """One number per term: weight sums for cross-entropies, positions for coordinate terms, boxes for geometry.

    `values` is float64 [K] in the registry's order, so it can be all-reduced with SUM as it is. Before the terms stand
    the joint counts, by their module's name: `token_ce` is the weight sum of struct, desc and eos tokens, by which
    their total is divided (so that `desc_ce_weight` has an effect).
    """

    values: torch.Tensor

    def __getitem__(self, term: str) -> torch.Tensor:
        return self.values[_PLACES[term]]

    def __add__(self, other: Normalizers) -> Normalizers:
        return Normalizers(self.values + other.values)

    def to_tensor(self) -> torch.Tensor:
        """A copy of the counts, float64 [K], for a SUM all-reduce."""
        return self.values.clone()

    @classmethod
    def from_tensor(cls, values: torch.Tensor) -> Normalizers:
        """The counts that `to_tensor` gave, reduced."""
        if values.shape != (len(_COUNTED),):
            raise ValueError(f"normalizers are a vector of {len(_COUNTED)} numbers, got shape {tuple(values.shape)}")
        return cls(values.to(torch.float64))

    def share(self, term: str) -> torch.Tensor:
        """1/count as a 0-d tensor, and 0 where nothing was counted."""
        count = self[term]
        return torch.where(count > 0, 1.0 / count.clamp(min=torch.finfo(count.dtype).tiny), 0.0)


def count_normalizers(context: TeacherForcingContext) -> Normalizers:
    """What `context` contributes to each term's denominator."""
    counts = _counts(context)
    zero = context.weight.new_zeros(())
    values = [
        counts[kind] if context.takes_coord_losses or not kind.of_coord_losses else zero for kind in _COUNTED.values()
    ]
    return Normalizers(torch.stack(values))


def _counts(context: TeacherForcingContext) -> dict[Count, torch.Tensor]:
    """Every kind of count, float64 0-d."""

    def weight_sum(*types: TokenType) -> torch.Tensor:
        return context.weight[context.of_type(*types)].sum()

    struct, desc = weight_sum(TokenType.STRUCT, TokenType.EOS), weight_sum(TokenType.DESC)
    return {
        Count.TEXT_WEIGHT: struct + desc,
        Count.STRUCT_WEIGHT: struct,
        Count.DESC_WEIGHT: desc,
        Count.COORD_WEIGHT: weight_sum(TokenType.COORD),
        Count.TEXT_TOKENS: context.text.sum().to(context.weight.dtype),
        Count.SLOTS: context.weight.new_tensor(context.slot_bins.shape[0]),
        Count.BOXES: context.weight.new_tensor(context.boxes.shape[0]),
    }


@dataclass(frozen=True, slots=True)
class TermSum:
    """What one forward adds to a term: its sum, the count that goes with it, and its weight inside its component."""

    total: torch.Tensor
    count: torch.Tensor
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class LossSums:
    """Detached sums of the terms that were computed: float64 [3, T], rows sum, weight times sum, and count."""

    values: torch.Tensor

    @classmethod
    def of(cls, terms: Mapping[str, TermSum], device: torch.device) -> LossSums:
        """Lay `terms` out in the registry's order; a term that is not among them stays 0 with count 0.

        Raises `ValueError` for a term that no module registers.
        """
        if strange := sorted(terms.keys() - TERM_COUNTS.keys()):
            raise ValueError(f"no module registers the term {', '.join(strange)}; registered are {', '.join(TERMS)}")
        values = torch.zeros(3, len(TERMS), dtype=torch.float64, device=device)
        for name, term in terms.items():
            total = term.total.detach().to(values)
            values[:, TERMS.index(name)] = torch.stack([total, term.weight * total, term.count.detach().to(values)])
        return cls(values)

    def __add__(self, other: LossSums) -> LossSums:
        return LossSums(self.values + other.values)

    def to_tensor(self) -> torch.Tensor:
        """A copy of the sums, float64 [3, T], for a SUM all-reduce."""
        return self.values.clone()

    @classmethod
    def from_tensor(cls, values: torch.Tensor) -> LossSums:
        """The sums that `to_tensor` gave, reduced."""
        if values.shape != (3, len(TERMS)):
            raise ValueError(f"loss sums have shape (3, {len(TERMS)}), got {tuple(values.shape)}")
        return cls(values.to(torch.float64))

    def metrics(self, context: str | None = None) -> dict[str, float]:
        """`loss/<component>` and `loss/<component>/<term>`, each sum over count; what was never counted is absent.

        With a `context`, the keys of sums that are one provenance's: `loss/<context>/<component>`.
        """
        total, weighted, count = (dict(zip(TERMS, row, strict=True)) for row in self.values.tolist())
        seen = {term for term in TERMS if count[term] > 0}
        metrics: dict[str, float] = {}
        for component in COMPONENTS.values():
            if component.name in seen:
                metrics[loss_key(component.name, context=context)] = total[component.name] / count[component.name]
            elif computed := [term.name for term in component.terms if term.name in seen]:
                whole = sum(weighted[term] / count[term] for term in computed)
                metrics[loss_key(component.name, context=context)] = whole
                metrics |= {loss_key(component.name, term, context): total[term] / count[term] for term in computed}
        return metrics
