"""The report's view of GPUs: in, committed records and this tree's results; out, the part `gpu` of the report.

A test of tests/gpu/ that neither a record nor this tree shows as passed is named with the reason. SPEC-022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from audit.gpu.records import GpuRecord, passed_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from audit.inventory import MarkedTest, TierTest
    from audit.results import CaseResult
    from coordexp.spec import Invariant

GPU = "gpu"
PASSED_HERE = "passed in this tree"


def describe_gpu(
    tests: Iterable[TierTest], records: Sequence[GpuRecord], results: Mapping[str, CaseResult], tree: str
) -> dict[str, Any]:
    """The newest record, and for each test of the tier where it passed or why it never did."""
    outcomes: dict[str, set[str]] = {}
    for result in results.values():
        outcomes.setdefault(result.function, set()).add(result.outcome)
    rows = [_row(test, records, outcomes.get(test.node, set())) for test in tests if test.tier == GPU]
    return {"record": _shown(records[0], tree) if records else None, "tests": rows}


def recorded_invariants(
    invariants: Iterable[Invariant], marked: Iterable[MarkedTest], records: Sequence[GpuRecord]
) -> dict[str, str]:
    """Invariants of the gpu tier of which every test passed on a GPU by a committed record, and where that was."""
    claims: dict[str, list[GpuRecord | None]] = {}
    for test in marked:
        for key in test.invariants:
            claims.setdefault(key, []).append(passed_in(records, test.node))
    shown: dict[str, str] = {}
    for invariant in invariants:
        holders = claims.get(invariant.id, [None])
        known = [record for record in holders if record is not None]
        if invariant.tier == GPU and len(known) == len(holders):
            where = ", ".join(dict.fromkeys(record.where for record in known))
            shown[invariant.id] = f"{invariant.id} passed on {where}"
    return shown


def _row(test: TierTest, records: Sequence[GpuRecord], here: set[str]) -> dict[str, str]:
    if here == {"passed"}:
        return {"node": test.node, "state": "passed", "reason": PASSED_HERE}
    record = passed_in(records, test.node)
    if record is not None:
        return {"node": test.node, "state": "passed", "reason": f"passed on {record.where}"}
    for record in records:
        outcome, reason = record.outcome(test.node)
        if outcome == "failed":
            text = f"failed on {record.where}: {reason}"
            return {"node": test.node, "state": "failed", "reason": text}
        if outcome == "skipped":
            text = f"never run on a GPU: skipped on {record.where}: {reason}"
            return {"node": test.node, "state": "never run", "reason": text}
    return {"node": test.node, "state": "never run", "reason": f"never run on a GPU: {test.reason}"}


def _shown(record: GpuRecord, tree: str) -> dict[str, Any]:
    content = record.content
    counts = {
        word: sum(test["outcome"] == word for test in content["tests"]) for word in ("passed", "failed", "skipped")
    }
    return {
        "file": record.file,
        "device": record.device,
        "date": record.date,
        "devices": content["devices"],
        "versions": content["versions"],
        "revision": content["revision"],
        "tree": content["tree"],
        "of_this_tree": content["tree"] == tree,
        **counts,
        "tests": content["tests"],
    }
