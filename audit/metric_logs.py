"""Keeps what a run of a shipped smoke configuration logged, as a fixture: python -m audit.metric_logs RUN...

In: run folders. Out: `fixtures/metrics/logs/<configuration>.jsonl`, the lines up to the first evaluation and the
last one, numbers to six digits; tests check them against the contract of metrics (ART-042).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.artifacts.run_manifest import read_run_manifest
from coordexp.metrics.log_contract import line_kind
from coordexp.training.log_check import LOG_NAME, LogError, check_run_log, read_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "fixtures/metrics/logs"
CONFIGS = "configs"
_LINES = 11
"""Of a run that evaluates nothing."""


def excerpt(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines up to the first evaluation, and the last one."""
    first = next((place for place, line in enumerate(lines) if line_kind(line) == "validation"), _LINES - 1)
    kept = [*lines[: first + 1], *(line for line in lines[first + 1 :] if line_kind(line) == "end")]
    return [{key: _short(value) for key, value in line.items()} for line in kept]


def _short(value: Any) -> Any:
    """Six digits of a number that is not whole."""
    return float(f"{value:.6g}") if isinstance(value, float) and value != round(value) else value


def configuration(folder: Path) -> str:
    """The shipped configuration that a run is of, below configs/ and without suffix: its own, or what it extends."""
    sources = [Path(source["path"]) for source in read_run_manifest(folder)["config"]["sources"]]
    shipped = next(path for path in sources if CONFIGS in path.parts)
    return "/".join(shipped.with_suffix("").parts[shipped.parts.index(CONFIGS) + 1 :])


def main(argv: list[str] | None = None) -> int:
    """Keep an excerpt of each run; 1 when a run's log breaks the contract."""
    parser = argparse.ArgumentParser(prog="python -m audit.metric_logs", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    for folder in parser.parse_args(argv).runs:
        try:
            problems = check_run_log(folder).problems
        except LogError as error:
            sys.stderr.write(f"metric_logs: {error}\n")
            return 1
        if problems:
            sys.stderr.writelines(f"{folder}: {problem}\n" for problem in problems)
            return 1
        path = LOGS / f"{configuration(folder)}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = excerpt(read_log(folder / LOG_NAME))
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
