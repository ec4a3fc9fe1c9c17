"""Objective outputs of a logging window in, one reduced set of metrics out. Contract ids: TRAIN-*, ART-006."""

from __future__ import annotations

import torch
import torch.distributed as dist

from coordexp.losses.normalizers import LossSums
from coordexp.losses.objective import ObjectiveOutput
from coordexp.metrics.accumulator import MetricAccumulator, reduce_over_ranks


class WindowMetrics:
    """Adds up detached sums and gauges; every number is Σ/Σ over the window's micro-batches and ranks."""

    def __init__(self) -> None:
        self._sums: LossSums | None = None
        self._gauges = MetricAccumulator()

    def add(self, output: ObjectiveOutput) -> None:
        """Take in one forward."""
        self._sums = output.sums if self._sums is None else self._sums + output.sums
        self._gauges.merge({key: (float(gauge.total), float(gauge.count)) for key, gauge in output.gauges.items()})

    def reduce(self, device: torch.device) -> dict[str, float]:
        """Metrics by key, the same on every rank; a collective when ranks are several. Empty for an empty window."""
        empty = LossSums.of({}, device)
        values = (empty if self._sums is None else self._sums).to_tensor().to(device)
        if dist.is_initialized():
            dist.all_reduce(values)
        return LossSums.from_tensor(values).metrics() | reduce_over_ranks(self._gauges)
