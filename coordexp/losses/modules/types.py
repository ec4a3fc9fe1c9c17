"""What objective and diagnostics modules receive and return. Contract ids: LOSS-019, LOSS-020."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from coordexp.losses.context import TeacherForcingContext
    from coordexp.losses.normalizers import Normalizers, TermSum
    from coordexp.losses.specs.types import DecodeMode
    from coordexp.losses.vocab import VocabularyOutput


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Coefficients float64 [R] of the vocabulary pass; modules add to them before it runs. Order: `context.rows`."""

    ce: torch.Tensor
    coord_gate: torch.Tensor
    text_gate: torch.Tensor

    @classmethod
    def zeros(cls, context: TeacherForcingContext) -> Coefficients:
        """No term anywhere yet."""
        return cls(*(context.weight.new_zeros(context.rows.shape[0]) for _ in range(3)))


@dataclass(frozen=True, eq=False)
class Forwarded:
    """One forward as modules see it: views, outcome of the vocabulary pass, coord distribution `p` [C, 1000]."""

    context: TeacherForcingContext
    vocabulary: VocabularyOutput
    log_p: torch.Tensor
    p: torch.Tensor
    decode_mode: DecodeMode


@dataclass(frozen=True, eq=False)
class ModuleOutput:
    """`loss`: 0-d, attached, divided by the normalizers and times the module's weight, without what the vocabulary
    pass holds; None when there is no such part. `terms`: detached sums by term name.
    """

    loss: torch.Tensor | None = None
    terms: Mapping[str, TermSum] = field(default_factory=dict)


class ObjectiveModule(Protocol):
    """Adds its vocabulary-wide terms to the plan, then computes the rest from the outcome. `weight` is the module's.

    `grades_slots`: its plan gives coefficients to coord slots, so the vocabulary pass takes gradients there too.
    """

    @property
    def grades_slots(self) -> bool: ...

    def plan(
        self, coefficients: Coefficients, context: TeacherForcingContext, normalizers: Normalizers, weight: float
    ) -> None:
        """Add this module's coefficients, in place."""

    def compute(self, forwarded: Forwarded, normalizers: Normalizers, weight: float) -> ModuleOutput:
        """The module's remaining loss and all of its sums."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """A measured mean: sum over count; both add up over micro-batches and ranks."""

    total: torch.Tensor
    count: int

    def __add__(self, other: Gauge) -> Gauge:
        return Gauge(self.total + other.total, self.count + other.count)


class DiagnosticModule(Protocol):
    """Measures without a gradient. `needs_coord_mass`: p_coord is wanted at every coord slot."""

    @property
    def needs_coord_mass(self) -> bool: ...

    def measure(self, forwarded: Forwarded) -> Mapping[str, Gauge]:
        """Gauges by metric key."""
