"""Recorded logs of shipped configurations, and what their runs were asked to do."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from coordexp.config import load_config, render_resolved
from coordexp.losses.defaults import resolve_manifest
from coordexp.losses.manifest import resolved_document
from coordexp.metrics.log_contract import LoggedRun
from coordexp.training.log_check import describe_run, read_log

ROOT = Path(__file__).resolve().parents[3]
LOGS = ROOT / "fixtures/metrics/logs"
SMOKE = sorted(
    "/".join(path.relative_to(ROOT / "configs").with_suffix("").parts)
    for path in (ROOT / "configs").glob("*/smoke/**/*.yaml")
)


def recorded(name: str) -> list[dict[str, Any]]:
    """The recorded log of a configuration."""
    return read_log(LOGS / f"{name}.jsonl")


@lru_cache(maxsize=32)
def asked(name: str) -> LoggedRun:
    """What the configuration asks of a run as it is shipped now."""
    return describe_run(*documents(name))


def documents(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The resolved configuration and its pipeline, as a run's manifest holds them."""
    config = load_config(ROOT / f"configs/{name}.yaml")
    return json.loads(render_resolved(config)), resolved_document(resolve_manifest(config))
