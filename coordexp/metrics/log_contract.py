"""A run's log lines and what the run was asked to do in, what breaks the contract of metrics out. Contract id: ART-041.

What a line has to hold follows from configuration, pipeline and step alone, never from the line itself, so that a key
that is lost is missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordexp.metrics.table import read_metric_table, read_upstream_table, undeclared_keys
from coordexp.spec.logged import EVALUATED
from coordexp.spec.situations import LineFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from coordexp.spec.situations import Line, LoggedKey, Module

PREFIX = "eval_"
"""Begins every key of an evaluation's line."""
_EVALUATION, _END = "eval_loss", "train_runtime"
_LIMITS: Mapping[str, tuple[float, float]] = {
    "counter": (0.0, math.inf),
    "rate": (0.0, 1.0),
    "flag": (0.0, 1.0),
    "time": (0.0, math.inf),
}
_WHOLE = ("counter", "flag")
_SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """What a run was asked to do: its resolved configuration, its enabled modules, and the contexts of the forwards of
    each optimizer step, from 0.
    """

    config: Mapping[str, Any]
    modules: Mapping[str, Module]
    contexts: Callable[[int], frozenset[str]]


@dataclass(slots=True)
class LogProblem:
    """What is wrong with a key, and the lines, from 1, on which it is."""

    text: str
    lines: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.lines[:5]))
        rest = f" and {len(self.lines) - 5} more" if len(self.lines) > 5 else ""
        return f"line{'s' if len(self.lines) > 1 else ''} {shown}{rest}: {self.text}"


def check_log(lines: Sequence[Mapping[str, Any]], run: LoggedRun) -> list[LogProblem]:
    """Every way in which the lines of `logging.jsonl` break the contract, each with all its lines; empty for none."""
    problems: dict[str, LogProblem] = {}
    for number, (line, facts) in enumerate(zip(lines, line_facts(lines, run), strict=True), start=1):
        for text in _faults(line, facts):
            problems.setdefault(text, LogProblem(text)).lines.append(number)
    return list(problems.values())


def line_facts(lines: Sequence[Mapping[str, Any]], run: LoggedRun) -> Iterator[LineFacts]:
    """What each line is of. A training line is of the steps since the training line before it."""
    evaluated = {line["global_step"] for line in lines if line_kind(line) == "validation"}
    before = 0
    for line in lines:
        kind = line_kind(line)
        if kind == "training":
            steps = range(before, int(line["global_step"]))
            before = steps.stop
            contexts = frozenset[str]().union(*map(run.contexts, steps))
            # Weights that an evaluation has just answered with are there already.
            pushed = any("B" in run.contexts(step) and step not in evaluated for step in steps)
        else:
            contexts, pushed = frozenset({EVALUATED}), True
        yield LineFacts(kind, contexts, pushed, run.config, run.modules)


def line_kind(line: Mapping[str, Any]) -> Line:
    """Whether it is of an evaluation, the last one, or of training."""
    if _EVALUATION in line:
        return "validation"
    return "end" if _END in line else "training"


def own_metrics(line: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a line that are not upstream's, as the table calls them."""
    prefix = PREFIX if line_kind(line) == "validation" else ""
    return {key.removeprefix(prefix): value for key, value in line.items() if key not in read_upstream_table()}


def _faults(line: Mapping[str, Any], facts: LineFacts) -> Iterator[str]:
    prefix = PREFIX if facts.line == "validation" else ""
    upstream = {key: line[key] for key in line if key in read_upstream_table()}
    own = own_metrics(line)
    yield from undeclared_keys(own).values()
    for table, found, shown in ((read_metric_table(), own, prefix), (read_upstream_table(), upstream, "")):
        for key, row in table.items():
            if key in found:
                yield from (f"{shown}{text}" for text in _misplaced(row, facts))
                yield from (f"{shown}{text}" for text in _bad_value(row, found[key]))
            elif (reason := _demanded(row, facts, own)) is not None:
                yield f"{shown}{key} is missing: it is logged on {reason}"


def _misplaced(row: LoggedKey, facts: LineFacts) -> Iterator[str]:
    # The last line takes what no training line came for.
    lines = ("end", "training") if facts.line == "end" else (facts.line,)
    if facts.line == "end" and any(situation.line in lines for situation in row.when):
        return
    if not any(situation.given(facts) for situation in row.when):
        yield f"{row.key} has no place here: it is logged on {'; '.join(_texts(row))}"


def _texts(row: LoggedKey) -> list[str]:
    return list(dict.fromkeys(situation.text for situation in row.when))


def _demanded(row: LoggedKey, facts: LineFacts, own: Mapping[str, Any]) -> str | None:
    """The situation that demands the key, in words; None where nothing does."""
    return next((each.text for each in row.when if each.given(facts) and each.demands(own)), None)


def _bad_value(row: LoggedKey, value: Any) -> Iterator[str]:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        yield f"{row.key} is {value!r}: only finite numbers are logged"
        return
    low, high = _LIMITS.get(row.kind, (-math.inf, math.inf))
    if not low - _SLACK <= value <= high + _SLACK or (row.kind in _WHOLE and value != round(value)):
        yield f"{row.key} is {value}, which no {row.kind} can be"
