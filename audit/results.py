"""Reads report logs of pytest runs: in, `.audit/<tier>.jsonl` and its tree sidecar; out, outcomes that can be trusted.

A log that is cut short, empty, interrupted, incomplete, or lists a test twice raises `UnusableResultsError`. Names of
workers' groups (`@server`) are no part of a test's name. SPEC-009, SPEC-020.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Outcome = Literal["passed", "failed", "skipped"]
_COMPLETE_EXITS = (0, 1)


class UnusableResultsError(Exception):
    """A report log that proves nothing; the text says why and what to run."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """Outcome of one test case. `reason` is why it was skipped, or the last line of its failure."""

    node: str
    outcome: Outcome
    seconds: float
    invariants: tuple[str, ...]
    reason: str = ""

    @property
    def function(self) -> str:
        """Node id without parameters."""
        return self.node.split("[", 1)[0]


@dataclass(frozen=True, slots=True)
class RunResults:
    """All results of one complete run, the arguments that pytest got, and how many tests those left out."""

    log: str
    before: str
    after: str
    exit_status: int
    tests: tuple[CaseResult, ...]
    not_collected: tuple[CaseResult, ...] = field(default_factory=tuple)
    arguments: tuple[str, ...] = ()
    left_out: int = 0
    versions: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def tier(self) -> str:
        """The tier of tests/<tier>/ that a log of this name is written by; `results` is that of the others."""
        return self.log.removesuffix(".jsonl")

    def of_tree(self, tree: str) -> bool:
        """Whether the run began and ended with exactly this tree."""
        return self.before == tree == self.after


def read_results(log: Path) -> RunResults:
    """Results of a report log. Raises `UnusableResultsError` for a short, empty, interrupted or ambiguous one."""
    try:
        return _read_run(log)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        text = f"{log}: no log of this audit ({type(error).__name__}: {error}); run the suite again"
        raise UnusableResultsError(text) from error


def begun_tree(log: Path) -> str:
    """The tree that the log's run began with, whatever became of it; empty where nothing says so."""
    try:
        return str(_read_beside(log, "tree", "")["before"]) if log.is_file() else ""
    except (UnusableResultsError, KeyError, TypeError, ValueError):
        return ""


def _read_run(log: Path) -> RunResults:
    entries = _read_entries(log)
    finish = entries[-1] if entries and entries[-1].get("$report_type") == "SessionFinish" else None
    if finish is None:
        raise UnusableResultsError(f"{log}: cut short (no end of session); run the suite again")
    if finish["exitstatus"] not in _COMPLETE_EXITS:
        raise UnusableResultsError(
            f"{log}: pytest stopped with exit status {finish['exitstatus']}; run the suite again"
        )
    phases: dict[str, dict[str, dict[str, Any]]] = {}
    not_collected: list[CaseResult] = []
    for entry in entries:
        if entry.get("$report_type") == "TestReport":
            phase = phases.setdefault(entry["nodeid"], {})
            if entry["when"] in phase:
                raise UnusableResultsError(f"{log}: {entry['nodeid']} is there twice; run the suite again")
            phase[entry["when"]] = entry
        elif entry.get("$report_type") == "CollectReport" and entry["outcome"] != "passed":
            not_collected.append(CaseResult(entry["nodeid"], entry["outcome"], 0.0, (), _reason(entry)))
    if not phases:
        raise UnusableResultsError(f"{log}: holds no tests; run the suite again")
    sidecar = _read_beside(log, "tree", "so the results belong to no known tree")
    collected = _read_beside(log, "tests", "so nobody knows which tests there were")
    if lost := sorted(set(collected["nodes"]) - set(phases)):
        raise UnusableResultsError(f"{log}: {len(lost)} tests have no result, {lost[0]} for one; run the suite again")
    tests = tuple(_combine(log, node, phase) for node, phase in phases.items())
    return RunResults(
        log=log.name,
        before=str(sidecar["before"]),
        after=str(sidecar["after"]),
        exit_status=finish["exitstatus"],
        tests=tests,
        not_collected=tuple(not_collected),
        arguments=tuple(map(str, sidecar["arguments"])),
        left_out=int(collected["left_out"]),
        versions=dict(sidecar["versions"]),
    )


def _read_entries(log: Path) -> list[dict[str, Any]]:
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
    except FileNotFoundError as error:
        raise UnusableResultsError(f"{log}: no results yet; run the suite") from error
    except json.JSONDecodeError as error:
        raise UnusableResultsError(f"{log}: cut short (a broken line); run the suite again") from error


def _read_beside(log: Path, kind: str, consequence: str) -> dict[str, Any]:
    path = log.with_name(f"{log.name}.{kind}.json")
    if not path.is_file():
        raise UnusableResultsError(f"{path}: missing, {consequence}; run the suite again")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _combine(log: Path, node: str, phases: dict[str, dict[str, Any]]) -> CaseResult:
    seconds = sum(float(phase["duration"]) for phase in phases.values())
    ids = tuple(
        str(i)
        for phase in phases.values()
        for name, value in phase["user_properties"]
        if name == "invariants"
        for i in value
    )
    ids = tuple(dict.fromkeys(ids))
    node = without_group(node)
    for outcome in ("failed", "skipped"):
        for phase in phases.values():
            if phase["outcome"] == outcome:
                return CaseResult(node, outcome, seconds, ids, _reason(phase))  # type: ignore[arg-type]
    if "call" not in phases or "teardown" not in phases:
        raise UnusableResultsError(f"{log}: {node} has no end; run the suite again")
    return CaseResult(node, "passed", seconds, ids)


def without_group(node: str) -> str:
    """The node id of a test; `--dist loadgroup` reports `file::test[case]@group`."""
    end = node.rfind("@")
    return node[:end] if end > max(node.rfind("]"), node.rfind("::")) else node


def _reason(report: dict[str, Any]) -> str:
    if report.get("wasxfail"):
        return f"expected failure: {report['wasxfail']}"
    detail = report.get("longrepr")
    if isinstance(detail, list | tuple) and len(detail) == 3:
        return str(detail[2]).removeprefix("Skipped: ")
    if isinstance(detail, dict):
        crash = detail.get("reprcrash") or {}
        return str(crash.get("message", "")).split("\n", 1)[0]
    return str(detail or "").strip().rsplit("\n", 1)[-1]
