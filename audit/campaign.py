"""Runs many mutants: in, a plan; out, one record a mutant, after the unmutated tests of its invariant passed.

Larger plans use warm processes; whatever is not killed in one is run again in a fresh one before it is reported.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING

from audit.execution import copy_checkout, end_running
from audit.mutation import hooked, run_mutant, run_unmutated
from audit.mutation_records import MutationRecord
from audit.suite import read_suite_command
from audit.warm import WarmServer, WarmServerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordexp.spec import Invariant

WORTH_WARMING = 4
_STEP = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run: the invariants with the numbers of their mutants, and the ids of those proved unmutated."""

    root: Path
    work: tuple[tuple[Invariant, tuple[int, ...]], ...]
    proved: frozenset[str]
    timeout: float
    warm: bool = True

    @property
    def size(self) -> int:
        """Number of mutants."""
        return sum(len(numbers) for _, numbers in self.work)


def run_plan(plan: Plan, jobs: int, done: Callable[[MutationRecord], None]) -> list[MutationRecord]:
    """Run the plan on `jobs` processes at a time; `done` is called with each record.

    An interruption, or an error of `done`, ends the tests that run and begins nothing new.
    """
    stop, errors = Event(), list[Exception]()
    servers: SimpleQueue[WarmServer | None] = SimpleQueue()
    with ExitStack() as stack, ThreadPoolExecutor(max_workers=jobs) as pool:
        for _ in range(jobs):
            warm = plan.warm and plan.size >= WORTH_WARMING
            environment = read_suite_command(plan.root).environment
            servers.put(stack.enter_context(WarmServer(plan.root, environment)) if warm else None)

        def run_one(invariant: Invariant, numbers: tuple[int, ...]) -> list[MutationRecord]:
            server = servers.get()
            try:
                return _run_invariant(plan, invariant, numbers, server, report)
            except WarmServerError:
                if stop.is_set():
                    raise
                server = None
                return _run_invariant(plan, invariant, numbers, None, report)
            finally:
                servers.put(server)

        def report(record: MutationRecord) -> None:
            if stop.is_set():
                raise CancelledError
            try:
                done(record)
            except Exception as error:
                stop.set()
                errors.append(error)
                raise

        batches = [pool.submit(run_one, invariant, numbers) for invariant, numbers in plan.work]
        try:
            return [record for batch in batches for record in batch.result()]
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            stack.close()
            while not all(batch.done() for batch in batches):
                # A thread may begin another process before it comes to report.
                end_running()
                time.sleep(_STEP)
            if errors:
                # What ended the run, not what that ended.
                raise errors[0] from None
            raise


def _run_invariant(
    plan: Plan,
    invariant: Invariant,
    numbers: tuple[int, ...],
    server: WarmServer | None,
    done: Callable[[MutationRecord], None],
) -> list[MutationRecord]:
    records: list[MutationRecord] = []
    if server is not None and _complaint(plan, plan.root, invariant, server):
        # Something of the warm process disturbs these tests: only fresh ones are believed for them.
        server = None
    complaints: dict[bool, str] = {}
    for number in numbers:
        copied = not hooked(plan.root, invariant.mutants[number - 1])
        if copied not in complaints:
            complaints[copied] = _baseline(plan, invariant, server, copied)
        if complaints[copied]:
            mutant = invariant.mutants[number - 1]
            detail = complaints[copied][:300]
            record = MutationRecord(invariant.id, number, mutant.file, mutant.why, "error", "", detail, 0.0)
        else:
            record = run_mutant(plan.root, invariant, number, plan.timeout, server)
        done(record)
        records.append(record)
    return records


def _baseline(plan: Plan, invariant: Invariant, server: WarmServer | None, copied: bool) -> str:
    """Why the unmutated tests of the invariant prove nothing; empty when they pass."""
    if copied:
        with tempfile.TemporaryDirectory(prefix="audit-copy-") as scratch:
            return _complaint(plan, copy_checkout(plan.root, Path(scratch) / "tree"), invariant, None)
    if server is not None or invariant.id in plan.proved:
        return ""
    return _complaint(plan, plan.root, invariant, None)


def _complaint(plan: Plan, place: Path, invariant: Invariant, server: WarmServer | None) -> str:
    run = run_unmutated(place, invariant.id, plan.timeout, server)
    if run.status == 0:
        return ""
    words = "time out" if run.status is None else f"end with pytest status {run.status}"
    return f"its unmutated tests {words}: {run.failed_test} {run.detail}"
