"""The form in which a trainer hands on its metrics (`coordexp:metrics-payload`, version 1). Contract id: ART-008."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from coordexp.metrics.table import MetricError, check_key, read_metric_table
from coordexp.spec import check

SCHEMA_VERSION = 1
Mode = Literal["train", "eval"]


def build_payload(mode: Mode, global_step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
    """A checked payload. Raises `MetricError` for a key the table lacks or does not give to `mode`, or a non-finite
    value.
    """
    table = read_metric_table()
    for key, value in metrics.items():
        if mode not in table[check_key(key)].modes:
            raise MetricError(f"metric {key!r} is not for mode {mode!r}: its modes are {', '.join(table[key].modes)}")
        if not math.isfinite(value):
            raise MetricError(f"metric {key!r} is {value} at step {global_step}: only finite numbers are logged")
    return check_payload(
        {"schema_version": SCHEMA_VERSION, "mode": mode, "global_step": global_step, "metrics": dict(metrics)}
    )


def check_payload(payload: Any) -> dict[str, Any]:
    """Return a payload from outside if this version can read it.

    Raises `MetricError` when `schema_version` is missing, is not an integer (`1.0` is not) or has another major
    version, and `ContractViolation` for anything else that does not fit.
    """
    if not isinstance(payload, Mapping) or "schema_version" not in payload:
        raise MetricError(f"metrics payload without schema_version; this version reads {SCHEMA_VERSION}")
    version = payload["schema_version"]
    if type(version) is not int:
        raise MetricError(f"metrics payload: schema_version must be an integer, got {version!r}")
    if version != SCHEMA_VERSION:
        raise MetricError(
            f"metrics payload: schema_version {version} is not supported; this version reads {SCHEMA_VERSION}"
        )
    return check("metrics-payload", dict(payload))
