"""Puts the report together: in, a checkout with results of this tree; out, what `coordexp:audit-report` describes."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from audit.assess import Facts, FunctionSummary, Problem, Verdict, judge, merge_runs
from audit.core.score import RECORD_FILE, summarise
from audit.findings import Finding, load_findings
from audit.gpu.records import load_records
from audit.gpu.view import GPU, PASSED_HERE, describe_gpu, recorded_invariants
from audit.inventory import read_marked_tests, read_tier_tests
from audit.mutation_records import KILLED, read_records
from audit.pipeline import load_pipeline, pipeline_problems, render_pipeline, resolve_entrypoints
from audit.requirements import Evidence, Row, build_matrix, load_remarks, unknown_requirements
from audit.results import RunResults, UnusableResultsError, read_results
from audit.suite import SERVER
from audit.tier import tier_of_file
from audit.tree import read_head
from coordexp.artifacts.provenance import read_upstream, read_versions
from coordexp.spec import check, load_invariants, load_requirements

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MUTANTS_FILE = "mutants.json"


def read_runs(folder: Path, tree: str) -> tuple[list[RunResults], list[dict[str, Any]]]:
    """The runs under `folder` that belong to this tree, and a description of every log, used or not."""
    used, described = [], []
    for log in sorted(folder.glob("*.jsonl")):
        try:
            run = read_results(log)
        except UnusableResultsError as error:
            described.append(_describe(log.name, (), note=str(error)))
            continue
        fresh = run.of_tree(tree)
        note = "" if fresh else "belongs to another tree, or the files changed while it ran"
        described.append(_describe(log.name, [test.outcome for test in run.tests], note, run))
        if fresh:
            used.append(run)
    return used, described


def gather_report(root: Path, tree: str, runs: list[RunResults], described: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole report of a tree, checked against its contract."""
    invariants, requirements = load_invariants(), load_requirements()
    facts = Facts(
        root=root,
        invariants=invariants,
        marked=read_marked_tests(root),
        results=merge_runs(runs),
        mutants=read_records(root / ".audit" / MUTANTS_FILE, tree),
        # A run of the gpu tier skips its tests where there is no GPU, so it owes none.
        ran=frozenset(run.tier for run in runs) & {SERVER},
    )
    verdicts, problems = judge(facts)
    findings = load_findings(root)
    states = {verdict.invariant.id: verdict.state for verdict in verdicts}
    gpu_records = load_records()
    known = {finding.id for finding in findings}
    recorded = recorded_invariants(invariants, facts.marked, gpu_records)
    evidence = Evidence(invariants, states, load_remarks(), known, root, recorded)
    rows = build_matrix(requirements, evidence)
    page, broken = _pipeline(root)
    listed = [
        *problems,
        *_run_problems(runs),
        *_declaration_problems(unknown_requirements(requirements, evidence), findings),
    ]
    listed += broken
    core = summarise(root / ".audit" / RECORD_FILE, tree)
    listed += _core_problems(core)
    shown = [_invariant(root, verdict) for verdict in verdicts]
    gpu = describe_gpu(read_tier_tests(root), gpu_records, facts.results, tree)
    report = {
        "schema_version": 1,
        "tree": tree,
        "head": read_head(root),
        "verdict": "red" if listed else "green",
        "problems": [asdict(problem) for problem in listed],
        "counts": _counts(verdicts, rows, facts),
        "runs": described,
        "invariants": shown,
        "requirements": [_requirement(row, shown) for row in rows],
        "not_run": _not_run(facts, runs, verdicts, core is not None, gpu["tests"]),
        "gpu": gpu,
        "findings": [_as_lists(asdict(finding)) for finding in findings],
        "pipeline": page,
        "core_mutation": core,
        "environment": {"versions": read_versions(), "upstream": read_upstream("ms-swift", "swift")},
    }
    return check("audit-report", report)


def _describe(name: str, outcomes: Iterable[str], note: str = "", run: RunResults | None = None) -> dict[str, Any]:
    count = Counter(outcomes)
    seconds = round(sum(test.seconds for test in run.tests), 2) if run else 0.0
    numbers = {outcome: count[outcome] for outcome in ("passed", "failed", "skipped")}
    return {"log": name, "used": not note, "tests": count.total(), **numbers, "seconds": seconds, "note": note}


def _run_problems(runs: list[RunResults]) -> Iterable[Problem]:
    for run in runs:
        for item in run.not_collected:
            if item.outcome == "failed":
                yield Problem("file could not be collected", item.node, item.reason)
        if run.exit_status != 0 and not any(test.outcome == "failed" for test in run.tests):
            yield Problem("run failed", run.log, f"pytest ended with exit status {run.exit_status}")


def _declaration_problems(unknown: list[str], findings: tuple[Finding, ...]) -> Iterable[Problem]:
    for text in unknown:
        yield Problem("unknown requirement", "contracts", text)
    for finding in findings:
        for text in finding.missing:
            yield Problem("evidence does not exist", finding.id, text)


def _core_problems(core: dict[str, Any] | None) -> Iterable[Problem]:
    if core is not None and core["score"] < core["bar"]:
        yield Problem("core mutation score", "python -m audit.core", f"{core['score']} is below {core['bar']}")
    if core is not None and core["unexplained"]:
        yield Problem("core mutation score", "python -m audit.core", f"{core['unexplained']} survivors have no reason")


def _pipeline(root: Path) -> tuple[str, list[Problem]]:
    pipeline = load_pipeline()
    if pipeline is None:
        return "", []
    entrypoints, problems = resolve_entrypoints(pipeline, root)
    problems += pipeline_problems(pipeline, root)
    page = render_pipeline(pipeline, entrypoints, root)
    return page, [Problem("pipeline map", "architecture/pipeline.yaml", text) for text in problems]


def _counts(verdicts: tuple[Verdict, ...], rows: tuple[Row, ...], facts: Facts) -> dict[str, int]:
    states = Counter(verdict.state for verdict in verdicts)
    statuses = Counter(row.status for row in rows)
    outcomes = Counter(result.outcome for result in facts.results.values())
    return {
        "invariants": len(verdicts),
        **{f"invariants {state}": states[state] for state in ("proved", "failing", "skipped", "not run")},
        "requirements": len(rows),
        **{f"requirements {status}": statuses[status] for status in ("done", "partly", "not yet")},
        "tests": len(facts.results),
        **{f"tests {outcome}": outcomes[outcome] for outcome in ("passed", "failed", "skipped")},
        "mutants": sum(len(verdict.invariant.mutants) for verdict in verdicts),
        "mutants killed": sum(record.status == KILLED for record in facts.mutants.values()),
    }


def _invariant(root: Path, verdict: Verdict) -> dict[str, Any]:
    invariant = verdict.invariant
    path = (
        invariant.path.relative_to(root).as_posix()
        if invariant.path.is_relative_to(root)
        else invariant.path.as_posix()
    )
    return {
        "id": invariant.id,
        "area": invariant.area,
        "title": invariant.title,
        "severity": invariant.severity,
        "tier": invariant.tier,
        "statement": invariant.statement,
        "declared": f"{path}:{invariant.line}",
        "state": verdict.state,
        "requirements": list(invariant.requirements),
        "evidence": [
            {"symbol": place.symbol, "where": place.where, "last_line": place.last_line, "code": place.code}
            for place in verdict.evidence
        ],
        "tests": [_test(test) for test in verdict.tests],
        "mutants": [asdict(record) for record in verdict.mutants],
        "mutants_declared": len(invariant.mutants),
        "mutants_killed": sum(record.status == KILLED for record in verdict.mutants),
    }


def _test(test: FunctionSummary) -> dict[str, Any]:
    return {**asdict(test), "outcome": test.outcome, "seconds": round(test.seconds, 3)}


def _requirement(row: Row, invariants: list[dict[str, Any]]) -> dict[str, Any]:
    document = row.remark.where if row.remark is not None else ""
    listing = [invariant for invariant in invariants if invariant["id"] in row.invariants]
    return {
        **asdict(row.requirement),
        "status": row.status,
        "reason": row.reason,
        "invariants": list(row.invariants),
        "severities": sorted({invariant["severity"] for invariant in listing}),
        "areas": sorted({invariant["area"] for invariant in listing}),
        "tests": [
            {"invariant": invariant["id"], "node": test["node"], "outcome": test["outcome"]}
            for invariant in listing
            for test in invariant["tests"]
        ],
        "document": document,
    }


def _not_run(
    facts: Facts,
    runs: list[RunResults],
    verdicts: tuple[Verdict, ...],
    core_ran: bool,
    gpu_tests: list[dict[str, str]],
) -> list[dict[str, str]]:
    found = {result.node: result.reason for result in facts.results.values() if result.outcome == "skipped"}
    found |= {item.node: item.reason for run in runs for item in run.not_collected if item.outcome == "skipped"}
    for verdict in verdicts:
        for test in verdict.tests:
            if test.outcome == "not run":
                found[test.node] = f"no result in this tree ({verdict.invariant.tier} tier)"
    nodes = {result.function for result in facts.results.values()}
    for other in read_tier_tests(facts.root):
        if other.node not in nodes and other.tier != GPU:
            found[other.node] = f"{other.tier} tier, `tox -e {other.tier}`: {other.reason}"
    # What a GPU would show is named by function, with what records say, whether it was skipped here or not tried.
    found = {node: reason for node, reason in found.items() if tier_of_file(node) != GPU}
    failed = {result.function for result in facts.results.values() if result.outcome == "failed"}
    for row in gpu_tests:
        if row["node"] not in failed and row["reason"] != PASSED_HERE:
            found[row["node"]] = row["reason"]
    declared = sum(len(verdict.invariant.mutants) for verdict in verdicts)
    if missing := declared - sum(len(verdict.mutants) for verdict in verdicts):
        found["python -m audit.mutants"] = f"{missing} of {declared} declared mutants have no result in this tree"
    if not core_ran:
        found["python -m audit.core"] = "no whole run in this tree"
    return [{"node": node, "reason": reason} for node, reason in sorted(found.items())]


def _as_lists(row: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}
