"""Objective outputs, counts and times of a logging window in, one reduced set of metrics out. Contract ids: TRAIN-*,
ART-006.
"""

from __future__ import annotations

import logging
import math
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from coordexp.losses.masks import Provenance
from coordexp.losses.normalizers import LossSums
from coordexp.losses.objective import ObjectiveOutput, add_by_key
from coordexp.metrics.accumulator import MetricAccumulator, reduce_over_ranks
from coordexp.metrics.payload import Mode, build_payload
from coordexp.metrics.table import undeclared_keys, warn_undeclared
from coordexp.spec.logged import OWN_LOSSES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordexp.training.types import PlannedForward

_LOG = logging.getLogger(__name__)


class WindowMetrics:
    """Adds up detached sums and gauges; a number is Σ/Σ over the window's micro-batches and ranks, a time the longest.

    Keys and reductions are those of contracts/metrics/metrics.yaml.
    """

    def __init__(self) -> None:
        self._sums: dict[Provenance, LossSums] = {}
        self._gauges = MetricAccumulator()

    def count(self, planned: PlannedForward, row_length: int | None) -> None:
        """What one forward holds: a filler counts its tokens alone. `row_length` None: fullness of rows is not told."""
        batch = planned.batch
        supervised = torch.cat([context.rows for context in planned.contexts]).unique()
        self._gauges.add("data/samples_total", 0 if planned.is_filler else len(batch.segments))
        self._gauges.add("data/tokens_total", batch.input_ids.numel())
        self._gauges.add("data/supervised_tokens_total", int(supervised.numel()))
        self._gauges.add("data/objects_total", len(batch.objects))
        self._gauges.add("data/boxes_total", sum(slots.kind == "bbox_2d" for slots in batch.objects))
        if row_length is not None and not planned.is_filler:
            self._gauges.add("packing/packs_total", planned.n_packs)
            self._gauges.add_ratio("packing/fill_rate", batch.input_ids.numel(), planned.n_packs * row_length)

    def time(self, key: str, since: float) -> None:
        """Seconds since `since` (of `time.perf_counter`); the longest of the window and of all ranks is reported."""
        self._gauges.add(key, perf_counter() - since)

    def merge(self, state: Mapping[str, tuple[float, float]]) -> None:
        """Take in what was accumulated elsewhere, by key."""
        self._gauges.merge(state)

    def add(self, output: ObjectiveOutput) -> None:
        """Take in one forward. A gauge that no module's contract has is warned of, and ends nothing."""
        self._sums = add_by_key(self._sums, output.by_context)
        strange = undeclared_keys(output.gauges)
        for text in strange.values():
            warn_undeclared(f"{text}; it is left out, because nothing says how it is reduced")
        gauges = {key: gauge for key, gauge in output.gauges.items() if key not in strange}
        self._gauges.merge({key: (float(gauge.total), float(gauge.count)) for key, gauge in gauges.items()})

    def reduce(self, device: torch.device) -> dict[str, float]:
        """Metrics by key, the same on every rank; a collective when ranks are several. Empty for an empty window.

        A component is there over all contexts, and by itself for each context of stage 2 that was trained on.
        """
        empty = LossSums.of({}, device)
        values = torch.stack([self._sums.get(context, empty).to_tensor().to(device) for context in Provenance])
        if dist.is_initialized():
            dist.all_reduce(values)
        metrics = LossSums.from_tensor(values.sum(0)).metrics()
        for context, part in zip(Provenance, values, strict=True):
            if context in OWN_LOSSES:
                metrics |= LossSums.from_tensor(part).metrics(context)
        return metrics | reduce_over_ranks(self._gauges)


def finite_payload(mode: Mode, step: int, reduced: Mapping[str, float]) -> dict[str, Any]:
    """The payload of a line. A number that is not finite is warned of once and left out: an objective that is not has
    ended the run already, and no diagnostics may.
    """
    broken = {key for key, value in reduced.items() if not math.isfinite(value)}
    for key in sorted(broken):
        _warn_not_finite(key)
    return build_payload(mode, step, {key: value for key, value in reduced.items() if key not in broken})


@lru_cache(maxsize=1024)
def _warn_not_finite(key: str) -> None:
    _LOG.warning("metric %s is not finite, so lines leave it out; this is said once", key)
