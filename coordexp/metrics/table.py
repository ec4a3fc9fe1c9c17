"""Metric keys and how each is reduced, read once from the contracts. Contract ids: ART-006, ART-007.

A key that the table does not know is refused with the nearest one, so that a misspelt metric cannot appear beside the
real one.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from coordexp.spec import ContractFileError
from coordexp.spec.logged import read_metric_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

Reduction = Literal["sum", "ratio", "mean", "max", "latest"]


class MetricError(ValueError):
    """A metric key or value that the contract does not allow."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table: `modes` are the payload modes that may carry the key."""

    key: str
    reduction: Reduction
    modes: tuple[str, ...]
    unit: str
    meaning: str


@lru_cache(maxsize=1)
def read_metric_table() -> Mapping[str, Metric]:
    """Every metric by key; raises `ContractFileError` for a key that is there twice, `ContractViolation` for a bad
    row.
    """
    table: dict[str, Metric] = {}
    for row in read_metric_rows():
        if row["key"] in table:
            raise ContractFileError(f"contracts/metrics/metrics.yaml: metric {row['key']!r} is there twice")
        table[row["key"]] = Metric(**{**row, "modes": tuple(row["modes"])})
    return table


def is_internal(key: str) -> bool:
    """Whether `key` is a reduction helper (its last part starts with an underscore), which never reaches a log."""
    return key.rsplit("/", 1)[-1].startswith("_")


def check_key(key: str) -> str:
    """Return `key` if the table has it; raise `MetricError` with the nearest known key otherwise."""
    table = read_metric_table()
    if key in table:
        return key
    near = difflib.get_close_matches(key, table, n=1)
    hint = f"; nearest: {near[0]!r}" if near else ""
    raise MetricError(
        f"unknown metric key {key!r}{hint}; keys and reductions are declared in contracts/metrics/metrics.yaml, "
        "those of the objective in contracts/losses/"
    )
