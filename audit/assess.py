"""Judges the declarations against the results of one tree: in, declarations and runs; out, states and problems.

Anything that would let an incomplete or failing tree look green becomes a `Problem`. SPEC-008, SPEC-009, SPEC-020.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from audit.mutation_records import KILLED, MutationRecord
from audit.symbols import Place, UnknownSymbolError, find_symbol
from audit.tier import tier_of_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from audit.inventory import MarkedTest
    from audit.results import CaseResult, RunResults
    from coordexp.spec import Invariant

State = Literal["proved", "failing", "skipped", "not run"]
# Invariants that a CPU can prove without a server: one that has no executed test is a problem wherever that test lies.
REQUIRED_TIERS = ("cpu", "ddp")


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason why the report is red: its kind, where, and what to do or see."""

    kind: str
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class FunctionSummary:
    """A test function of an invariant with the outcomes of its cases in this tree."""

    node: str
    where: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    reason: str

    @property
    def outcome(self) -> str:
        """One word for all cases."""
        if self.failed:
            return "failed"
        if self.passed:
            return "passed"
        return "skipped" if self.skipped else "not run"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An invariant with everything the report shows about it."""

    invariant: Invariant
    state: State
    evidence: tuple[Place, ...]
    tests: tuple[FunctionSummary, ...]
    mutants: tuple[MutationRecord, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is judged: declarations, markers in the source, merged results, mutation records."""

    root: Path
    invariants: tuple[Invariant, ...]
    marked: tuple[MarkedTest, ...]
    results: Mapping[str, CaseResult]
    mutants: Mapping[tuple[str, int], MutationRecord] = field(default_factory=dict)
    # The tiers with a folder of their own that ran in this tree.
    ran: frozenset[str] = frozenset()


def merge_runs(runs: Iterable[RunResults]) -> dict[str, CaseResult]:
    """Results of several runs of one tree by node id: a failure wins, then a pass, then a skip."""
    rank = {"failed": 0, "passed": 1, "skipped": 2}
    merged: dict[str, CaseResult] = {}
    for run in runs:
        for test in run.tests:
            known = merged.get(test.node)
            if known is None or rank[test.outcome] < rank[known.outcome]:
                merged[test.node] = test
    return merged


def judge(facts: Facts) -> tuple[tuple[Verdict, ...], tuple[Problem, ...]]:
    """A verdict an invariant, and every problem of the tree."""
    problems: list[Problem] = []
    tests = _tests_by_invariant(facts)
    verdicts = []
    for invariant in facts.invariants:
        places, missing = _evidence(facts.root, invariant)
        problems += missing
        summaries = tuple(tests.get(invariant.id, {}).values())
        rows = tuple(record for key, record in sorted(facts.mutants.items()) if key[0] == invariant.id)
        verdict = Verdict(invariant, _state(summaries), places, summaries, rows)
        problems += _invariant_problems(verdict, facts.ran)
        verdicts.append(verdict)
    declared = {invariant.id for invariant in facts.invariants}
    for stray in sorted(set(tests) - declared):
        first = next(iter(tests[stray].values()))
        problems.append(
            Problem("marker without an invariant", first.where, f"{stray} is declared in no invariant file")
        )
    problems += _failures(facts.results.values())
    return tuple(verdicts), tuple(problems)


def _tests_by_invariant(facts: Facts) -> dict[str, dict[str, FunctionSummary]]:
    cases: dict[str, list[CaseResult]] = {}
    for result in facts.results.values():
        cases.setdefault(result.function, []).append(result)
    places = {test.node: f"{test.file}:{test.line}" for test in facts.marked}
    claims: dict[str, dict[str, None]] = {}
    for test in facts.marked:
        for key in test.invariants:
            claims.setdefault(key, {})[test.node] = None
    for function, results in cases.items():
        for key in dict.fromkeys(i for result in results for i in result.invariants):
            claims.setdefault(key, {})[function] = None
    return {
        key: {node: _summary(key, node, places.get(node, node), cases.get(node, [])) for node in nodes}
        for key, nodes in claims.items()
    }


def _summary(key: str, node: str, where: str, cases: list[CaseResult]) -> FunctionSummary:
    # A worker that crashed leaves a failed case without properties: it stands against all that its test claims.
    own = [case for case in cases if key in case.invariants or (case.outcome == "failed" and not case.invariants)]
    count = {outcome: sum(case.outcome == outcome for case in own) for outcome in ("passed", "failed", "skipped")}
    reason = "; ".join(dict.fromkeys(case.reason for case in own if case.reason))
    return FunctionSummary(node=node, where=where, seconds=sum(case.seconds for case in own), reason=reason, **count)


def _state(tests: tuple[FunctionSummary, ...]) -> State:
    outcomes = {test.outcome for test in tests}
    if "failed" in outcomes:
        return "failing"
    if "passed" in outcomes:
        return "proved"
    return "skipped" if "skipped" in outcomes else "not run"


def _evidence(root: Path, invariant: Invariant) -> tuple[tuple[Place, ...], list[Problem]]:
    places, problems = [], []
    for symbol in invariant.evidence:
        try:
            places.append(find_symbol(root, symbol))
        except UnknownSymbolError as error:
            problems.append(Problem("evidence does not exist", invariant.id, str(error)))
    return tuple(places), problems


def _invariant_problems(verdict: Verdict, ran: frozenset[str]) -> Iterator[Problem]:
    invariant = verdict.invariant
    if not verdict.tests:
        yield Problem("invariant without a test", invariant.id, f"no test carries its marker ({invariant.title})")
    for test in _owed(verdict, ran):
        if test.outcome == "not run":
            yield Problem("test was not run", test.where, f"{test.node} of {invariant.id} has no result in this tree")
        elif test.skipped:
            yield Problem("test of an invariant was skipped", test.where, f"{test.node}: {test.reason}")
    for record in verdict.mutants:
        if record.status != KILLED:
            yield Problem("mutant not killed", f"{invariant.id} #{record.number}", f"{record.status}: {record.why}")


def _owed(verdict: Verdict, ran: frozenset[str]) -> Iterator[FunctionSummary]:
    """The tests that had to pass here: those of tests/<tier>/ where that tier ran, and those of no such folder."""
    tier, unproved = verdict.invariant.tier, verdict.state in ("skipped", "not run")
    for test in verdict.tests:
        home = tier_of_file(test.node)
        here = home in ran if home else tier != "gpu"
        if here or (unproved and tier in REQUIRED_TIERS):
            yield test


def _failures(results: Iterable[CaseResult]) -> Iterator[Problem]:
    for result in results:
        if result.outcome == "failed":
            yield Problem("test failed", result.node, result.reason)
