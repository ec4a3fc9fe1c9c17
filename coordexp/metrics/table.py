"""Metric keys and how each is reduced, read once from the contracts. Contract ids: ART-006, ART-007, ART-040.

A key that the table does not know is refused with the nearest one, so that a misspelt metric cannot appear beside the
real one.
"""

from __future__ import annotations

import difflib
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

from coordexp.spec import ContractFileError
from coordexp.spec.logged import read_metric_rows, read_upstream_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from coordexp.spec.situations import LoggedKey


class MetricError(ValueError):
    """A metric key or value that the contract does not allow."""


class UndeclaredMetricWarning(UserWarning):
    """A key that no contract declares: a test fails over it, training goes on."""


@lru_cache(maxsize=1)
def read_metric_table() -> Mapping[str, LoggedKey]:
    """Every metric by key; raises `ContractFileError` for a key that is there twice, `ContractViolation` for a bad
    row.
    """
    return _by_key(read_metric_rows())


@lru_cache(maxsize=1)
def read_upstream_table() -> Mapping[str, LoggedKey]:
    """Every key that upstream, or the log itself, adds to a line, by key; raises the same."""
    return _by_key(read_upstream_rows())


def _by_key(rows: Iterable[LoggedKey]) -> Mapping[str, LoggedKey]:
    table: dict[str, LoggedKey] = {}
    for row in rows:
        if row.key in table:
            raise ContractFileError(f"contracts/metrics/metrics.yaml: metric {row.key!r} is there twice")
        table[row.key] = row
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


def undeclared_keys(keys: Iterable[str]) -> dict[str, str]:
    """The keys that no contract declares, upstream's and the log's own among them, with what is wrong with each.

    Keys of an evaluation's line are given without their `eval_`.
    """
    found = {}
    for key in keys:
        if is_internal(key):
            found[key] = f"{key} is a helper of the reduction, which no log may hold"
        elif key not in read_upstream_table():
            try:
                check_key(key)
            except MetricError as error:
                found[key] = str(error)
    return found


@lru_cache(maxsize=1024)
def warn_undeclared(text: str) -> None:
    """Warn of an undeclared key: once in a process, because a run logs it on every line."""
    warnings.warn(f"undeclared metric: {text}", UndeclaredMetricWarning, stacklevel=2)
