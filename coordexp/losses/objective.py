"""A manifest, a context and a forward in; the total loss and its sums out.

Outputs of several contexts (Channel A's anchor and last iteration, micro-batches, ranks) add up, because every term is
divided by normalizers that were counted over all of them beforehand.

Contract ids: LOSS-019, LOSS-020, LOSS-023..025.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import torch

from coordexp.losses.context import TeacherForcingContext, build_context
from coordexp.losses.coord_atoms import embed_coords
from coordexp.losses.defaults import stage1_manifest
from coordexp.losses.manifest import Manifest, ModuleEntry, checksum
from coordexp.losses.modules.types import (
    Coefficients,
    DiagnosticModule,
    Forwarded,
    Gauge,
    ModuleOutput,
    ObjectiveModule,
)
from coordexp.losses.normalizers import LossSums, Normalizers, TermSum
from coordexp.losses.registry import build_diagnostic_module, build_objective_module
from coordexp.losses.specs.coord_reg import CoordRegConfig
from coordexp.losses.specs.types import DecodeMode
from coordexp.losses.vocab import VocabularyRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from coordexp.config.sections import CustomConfig
    from coordexp.losses.masks import Provenance
    from coordexp.losses.vocab import Score, VocabularyOutput
    from coordexp.packing.types import PackedBatch

_LOG = logging.getLogger(__name__)
Key = TypeVar("Key")
Sum = TypeVar("Sum", Gauge, LossSums)


class ObjectiveError(RuntimeError):
    """An objective module failed, or its loss is not finite; says which one and on what."""


@dataclass(frozen=True, eq=False)
class ObjectiveOutput:
    """`total`: 0-d, attached to the graph even when nothing is supervised. `sums`, `gauges`: detached, they add up.

    `by_context` holds the sums of each provenance by itself; `sums` is all of them together.
    """

    total: torch.Tensor
    sums: LossSums
    gauges: Mapping[str, Gauge] = field(default_factory=dict)
    by_context: Mapping[Provenance, LossSums] = field(default_factory=dict)

    def __add__(self, other: ObjectiveOutput) -> ObjectiveOutput:
        gauges = add_by_key(self.gauges, other.gauges)
        return ObjectiveOutput(
            self.total + other.total, self.sums + other.sums, gauges, add_by_key(self.by_context, other.by_context)
        )

    def metrics(self) -> dict[str, float]:
        """`loss/*` as sum over count, and every gauge as its mean."""
        return self.sums.metrics() | {key: float(gauge.total) / gauge.count for key, gauge in self.gauges.items()}


@dataclass(frozen=True, eq=False)
class Prepared:
    """A forward's objective before the forward: `request` is what to score of it, `finish` makes the loss of that."""

    request: VocabularyRequest
    finish: Callable[[VocabularyOutput], ObjectiveOutput]


class Objective:
    """Runs a manifest's modules in order. It has no parameters; which diagnostics are still on is its only state."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.checksum = checksum(manifest)
        # Stage 1 has no choice: its boxes are expectations.
        self.decode_mode: DecodeMode = manifest.coord_decode_mode or "exp"
        self._temperature = manifest.config_of("coord_reg", CoordRegConfig).temperature
        self._objective: list[tuple[ModuleEntry, ObjectiveModule]] = [
            (entry, build_objective_module(entry)) for entry in manifest.objective
        ]
        self._diagnostics: list[tuple[ModuleEntry, DiagnosticModule]] = [
            (entry, build_diagnostic_module(entry)) for entry in manifest.diagnostics
        ]

    def context(self, batch: PackedBatch, provenance: Provenance) -> TeacherForcingContext:
        """The views of `batch` with this manifest's mask weights."""
        return build_context(batch, provenance, self.manifest.mask_weights())

    def __call__(self, context: TeacherForcingContext, score: Score, normalizers: Normalizers) -> ObjectiveOutput:
        """Loss of one forward, which `score` runs with the request for its vocabulary pass; raises like `prepare`."""
        prepared = self.prepare(context, normalizers)
        return prepared.finish(score(prepared.request))

    def prepare(self, context: TeacherForcingContext, normalizers: Normalizers) -> Prepared:
        """What to score of the forward of `context`, and what makes its loss of the scores.

        `normalizers` are summed over everything that the optimizer step holds: contexts, forwards, ranks.

        Both raise `ObjectiveError` when an objective module fails, `finish` too when the total is not finite. A
        diagnostics module that fails is logged once and switched off.
        """
        coefficients = Coefficients.zeros(context)
        for entry, module in self._active(context):
            with _naming(entry, context):
                module.plan(coefficients, context, normalizers, entry.weight)
        return Prepared(self._request(coefficients, context), partial(self._finish, context, normalizers))

    def embed(self, coord_logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """What slots with these logits [C, 1000] are fed [C, H] in the self context, `rows` [1000, H] being the coord
        tokens' embeddings: by the manifest's `coord_ctx_embed_mode`, of the distribution that the losses see.
        """
        p = torch.softmax(coord_logits / self._temperature, dim=-1)
        return embed_coords(p, rows, str(self.manifest.coord_ctx_embed_mode))

    def _active(self, context: TeacherForcingContext) -> list[tuple[ModuleEntry, ObjectiveModule]]:
        return [(entry, module) for entry, module in self._objective if entry.runs_in(context.provenance.channel)]

    def _finish(
        self, context: TeacherForcingContext, normalizers: Normalizers, vocabulary: VocabularyOutput
    ) -> ObjectiveOutput:
        log_p = torch.log_softmax(vocabulary.coord_logits / self._temperature, dim=-1)
        forwarded = Forwarded(context, vocabulary, log_p, log_p.exp(), self.decode_mode)
        total = vocabulary.loss
        terms: dict[str, Mapping[str, TermSum]] = {}
        for entry, module in self._active(context):
            with _naming(entry, context):
                output: ModuleOutput = module.compute(forwarded, normalizers, entry.weight)
            total = total if output.loss is None else total + output.loss
            terms[entry.name] = output.terms
        _check_finite(total, terms, context)
        sums = LossSums.of(dict(chain.from_iterable(part.items() for part in terms.values())), total.device)
        return ObjectiveOutput(total, sums, self._measure(forwarded), {context.provenance: sums})

    def _request(self, coefficients: Coefficients, context: TeacherForcingContext) -> VocabularyRequest:
        n_tokens, n_rows = context.predict.shape[0], context.rows.shape[0]
        # Slots that only a diagnostics module looks at come after `n_graded`: forward alone, or not at all.
        gated = self._grades_slots(context)
        wanted = gated or any(
            module.needs_coord_mass for entry, module in self._diagnostics if entry.runs_in(context.provenance.channel)
        )
        kept = slice(n_rows if wanted else n_tokens)
        padding = context.target.new_zeros(n_rows - n_tokens)
        return VocabularyRequest(
            n_positions=context.n_positions,
            rows=context.rows[kept],
            slots=context.slot_predict,
            target=torch.cat([context.target, padding])[kept],
            ce=coefficients.ce[kept],
            coord_gate=coefficients.coord_gate[kept],
            text_gate=coefficients.text_gate[kept],
            n_graded=n_rows if gated else n_tokens,
        )

    def _grades_slots(self, context: TeacherForcingContext) -> bool:
        return context.takes_coord_losses and any(module.grades_slots for _, module in self._active(context))

    def _measure(self, forwarded: Forwarded) -> dict[str, Gauge]:
        gauges: dict[str, Gauge] = {}
        for entry, module in tuple(self._diagnostics):
            if not entry.runs_in(forwarded.context.provenance.channel):
                continue
            try:
                with torch.no_grad():
                    gauges |= module.measure(forwarded)
            except Exception as error:
                if isinstance(error, MemoryError):
                    raise  # The host is out of memory, whichever module noticed.
                _LOG.warning(
                    "diagnostics module %s failed on %s and is off from now on: %s",
                    entry.name,
                    forwarded.context.describe(),
                    error,
                    exc_info=True,
                )
                self._diagnostics.remove((entry, module))
        return gauges


def add_by_key(one: Mapping[Key, Sum], other: Mapping[Key, Sum]) -> dict[Key, Sum]:
    """Every key of both, with the sum of what both hold of it."""
    return {**one, **other} | {key: one[key] + other[key] for key in one.keys() & other.keys()}


@contextmanager
def _naming(entry: ModuleEntry, context: TeacherForcingContext) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ObjectiveError(f"objective module {entry.name} failed on {context.describe()}: {error}") from error


def _check_finite(
    total: torch.Tensor, terms: Mapping[str, Mapping[str, TermSum]], context: TeacherForcingContext
) -> None:
    if bool(torch.isfinite(total)):
        return
    bad = {name: [term for term, part in parts.items() if not part.total.isfinite()] for name, parts in terms.items()}
    named = ", ".join(f"{name} ({', '.join(parts)})" for name, parts in bad.items() if parts) or "their sum"
    raise ObjectiveError(f"the loss is {total.item()}, from {named}, on {context.describe()}")


def build_objective(manifest: Manifest) -> Objective:
    """The objective that `manifest` describes."""
    return Objective(manifest)


def build_stage1_objective(custom: CustomConfig) -> Objective:
    """The stage-1 objective of a configuration's section `custom`."""
    return build_objective(stage1_manifest(custom))
