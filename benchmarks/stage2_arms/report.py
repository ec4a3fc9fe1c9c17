"""Results in, tables out: one row a run, then mean and spread over the seeds of each arm, as Markdown."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.stage2_arms.plan import SPLITS
from benchmarks.stage2_arms.table import ARMS

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Column:
    """A number of an evaluation: its heading and its decimals."""

    heading: str
    key: str
    digits: int


COLUMNS = (
    Column("parse", "parse_rate", 3),
    Column("F1", "f1", 3),
    Column("precision", "precision", 3),
    Column("recall", "recall", 3),
    Column("mAP", "mAP", 4),
    Column("length / annotated", "length_ratio", 3),
    Column("truncated", "truncated", 0),
    Column("near-duplicates", "near_duplicates", 0),
)
COSTS = (Column("CPU s", "train_cpu_s", 0), Column("steps", "steps", 0), Column("records", "records", 0))


def render(results: Sequence[dict[str, Any]], settings: dict[str, Any]) -> str:
    """The whole page: what was run, the means, each run, what failed."""
    done = [result for result in results if "error" not in result]
    failed = [result for result in results if "error" in result]
    order = {name: place for place, name in enumerate(("start", *ARMS))}
    done.sort(key=lambda result: (order[result["arm"]], result["seed"]))
    given = "; ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
    parts = [f"{len(done)} done, {len(failed)} failed. {given}.", "## Mean ± standard deviation over seeds"]
    parts += [table(summaries(done), split, "seeds") for split in SPLITS]
    parts += ["## Runs", *(table(done, split, "seed") for split in SPLITS)]
    names = sorted({result["arm"] for result in results} - {"start"}, key=order.__getitem__)
    parts += ["## Arms", "\n".join(f"- `{name}`: {ARMS[name].about}" for name in names)]
    if failed:
        shown = (f"- {result['arm']}, seed {result['seed']}:\n\n```\n{result['error']}\n```" for result in failed)
        parts += ["## Failed", "\n".join(shown)]
    return "\n\n".join(part for part in parts if part) + "\n"


def summaries(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row an arm, in which each number is (mean, standard deviation over seeds or None for one)."""
    rows = []
    for arm in dict.fromkeys(result["arm"] for result in results):
        runs = [result for result in results if result["arm"] == arm]
        row: dict[str, Any] = {"arm": arm, "seeds": len(runs)}
        row |= {column.key: spread([run.get(column.key) for run in runs]) for column in COSTS}
        row["evaluations"] = {
            split: {column.key: spread([run["evaluations"][split][column.key] for run in runs]) for column in COLUMNS}
            for split in SPLITS
        }
        rows.append(row)
    return rows


def spread(values: Sequence[float | None]) -> tuple[float, float | None] | None:
    """Mean and sample standard deviation of what is there; None over nothing."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    return statistics.fmean(there), statistics.stdev(there) if len(there) > 1 else None


def table(rows: Sequence[dict[str, Any]], split: str, counted: str) -> str:
    """One Markdown table of the numbers on a split."""
    if not rows:
        return ""
    headings = ["arm", counted, *(column.heading for column in (*COSTS, *COLUMNS))]
    lines = [f"{split.capitalize()}:\n", "| " + " | ".join(headings) + " |", "| --- " * len(headings) + "|"]
    for row in rows:
        numbers = [cell(row.get(column.key), column) for column in COSTS]
        numbers += [cell(row["evaluations"][split][column.key], column) for column in COLUMNS]
        lines.append("| " + " | ".join([row["arm"], str(row[counted]), *numbers]) + " |")
    return "\n".join(lines)


def cell(value: float | tuple[float, float | None] | None, column: Column) -> str:
    """A number, or mean ± deviation; a dash where there is none."""
    if value is None:
        return "–"
    if not isinstance(value, tuple):
        return f"{value:,.{column.digits}f}"
    mean, deviation = value
    digits = column.digits or (1 if column in COLUMNS else 0)
    return f"{mean:,.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")
