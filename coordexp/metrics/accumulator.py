"""Adds up a step's observations over micro-batches and ranks and reduces them once. Contract ids: ART-006, ART-007.

Observations enter under the keys of the metric table; reduced numbers leave. Sums stay sums until the end, so a ratio
does not depend on how the batch was split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.distributed as dist

from coordexp.metrics.table import MetricError, check_key, is_internal, read_metric_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Number: TypeAlias = "float | torch.Tensor"
_OF_TWO = ("ratio", "latest")
State = dict[str, tuple[float, float]]
"""Per key: numerator and denominator (ratio, mean, latest), total and 0 (sum), largest and 0 (max). Plain floats,
picklable.
"""


class MetricAccumulator:
    """Collects one window's metrics. Tensors may stay on their device until `state()` or `result()` reads them.

    Keys whose last part starts with an underscore are helpers: summed, merged, readable in `state()`, absent from
    results.
    """

    def __init__(self) -> None:
        self._left: dict[str, Number] = {}
        self._right: dict[str, Number] = {}

    def add(self, key: str, value: Number) -> None:
        """One observation of a counter (summed), a gauge (averaged over observations) or a maximum.

        Raises `MetricError` for an unknown key and for a ratio, whose two numbers `add_ratio` takes.
        """
        reduction = _reduction(key)
        if reduction in _OF_TWO:
            raise MetricError(f"{key!r} is a ratio: give its numerator and denominator to add_ratio")
        self._combine(key, reduction, _detached(value), 1.0 if reduction == "mean" else 0.0)

    def add_ratio(self, key: str, numerator: Number, denominator: Number) -> None:
        """Add to both sums of a ratio, e.g. the weighted loss sum and the sum of weights; 0/0 leaves the key absent."""
        reduction = _reduction(key)
        if reduction not in _OF_TWO:
            raise MetricError(f"{key!r} is reduced by {reduction}, not as a ratio; use add")
        self._combine(key, reduction, _detached(numerator), _detached(denominator))

    def state(self) -> State:
        """What has been added so far, as plain floats that can cross ranks."""
        return {key: (float(self._left[key]), float(self._right[key])) for key in sorted(self._left)}

    def merge(self, state: Mapping[str, tuple[float, float]]) -> None:
        """Take in another rank's (or window's) state; keys need not be the same on both sides."""
        for key, (left, right) in state.items():
            self._combine(key, _reduction(key), left, right)

    def result(self) -> dict[str, float]:
        """The reduced value of every key that was observed, helpers left out. A ratio over nothing is absent, not 0."""
        reduced = {}
        for key, (left, right) in self.state().items():
            if is_internal(key):
                continue
            if _reduction(key) in ("sum", "max"):
                reduced[key] = left
            elif right != 0.0:
                reduced[key] = left / right
        return reduced

    def _combine(self, key: str, reduction: str, left: Number, right: Number) -> None:
        if key not in self._left:
            self._left[key], self._right[key] = left, right
        elif reduction == "max":
            self._left[key] = max(float(self._left[key]), float(left))
        elif reduction == "latest":
            seen, new = (self._left[key], self._right[key]), (left, right)
            self._left[key], self._right[key] = max(seen, new, key=_denominator)
        else:
            self._left[key] = self._left[key] + left
            self._right[key] = self._right[key] + right


def merge_states(states: Iterable[State]) -> MetricAccumulator:
    """One accumulator from the states of all ranks."""
    total = MetricAccumulator()
    for state in states:
        total.merge(state)
    return total


def reduce_over_ranks(accumulator: MetricAccumulator) -> dict[str, float]:
    """The global result, the same on every rank. One collective whatever the keys, so every rank must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return accumulator.result()
    states: list[State | None] = [None] * dist.get_world_size()
    dist.all_gather_object(states, accumulator.state())
    return merge_states(state for state in states if state is not None).result()


def _denominator(pair: tuple[Number, Number]) -> float:
    return float(pair[1])


def _reduction(key: str) -> str:
    return "sum" if is_internal(key) else str(read_metric_table()[check_key(key)].reduction)


def _detached(value: Number) -> Number:
    return value.detach() if isinstance(value, torch.Tensor) else value
