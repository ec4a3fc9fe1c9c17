"""`python -m audit.mutants`: apply each invariant's declared faults and expect its tests to notice.

Exits 1 when a mutant is not killed. `.audit/mutants.json` keeps the results of this tree; what was killed in it is not
run again unless `--again`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from audit.arguments import positive_int
from audit.campaign import Plan, run_plan
from audit.inventory import files_for
from audit.mutation_records import KILLED, MutationRecord, read_records, write_records
from audit.results import UnusableResultsError, read_results
from audit.suite import read_suite_command
from audit.tree import NotACheckoutError, changed_files, read_tree_id
from coordexp.spec import ContractFileError, ContractViolation, Invariant, load_invariants

if TYPE_CHECKING:
    from collections.abc import Sequence

_RUNNABLE = ("cpu", "ddp")
_COLOURS = {KILLED: "green", "survived": "red", "timed out": "yellow", "invalid": "magenta", "error": "red"}


class SelectionError(Exception):
    """The command line selects nothing that exists."""


class TreeChangedError(Exception):
    """Files changed while mutants ran, so the last results are of no tree."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the selected mutants; return the exit status."""
    options = _parser().parse_args(arguments)
    console = Console()
    root = Path.cwd()
    try:
        tree = read_tree_id(root)
        known = {} if options.again else read_records(root / ".audit" / "mutants.json", tree)
        plan = build_plan(root, options, known, tree)
        fresh = _run_with_progress(plan, options.jobs, console, tree)
    except (SelectionError, TreeChangedError, ContractFileError, ContractViolation, NotACheckoutError) as error:
        sys.stderr.write(f"audit.mutants: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("audit.mutants: interrupted; the same command goes on from here\n")
        return 2
    if options.json:
        write_records(options.json, tree, fresh)
    return _show(fresh, len(known), console)


def build_plan(
    root: Path, options: argparse.Namespace, known: dict[tuple[str, int], MutationRecord], tree: str
) -> Plan:
    """Choose the mutants: the named invariants or area, the changed ones, without those already killed in this tree."""
    invariants = load_invariants()
    unknown = sorted(set(options.invariant) - {invariant.id for invariant in invariants})
    if unknown:
        raise SelectionError(f"no invariant {', '.join(unknown)}; see contracts/invariants/")
    areas = sorted({invariant.area for invariant in invariants})
    if options.area and options.area not in areas:
        raise SelectionError(f"no area {options.area!r}; allowed: {', '.join(areas)}")
    if options.area and any(
        invariant.area != options.area for invariant in invariants if invariant.id in options.invariant
    ):
        raise SelectionError(f"--invariant names one outside --area {options.area}; give one of the two")
    changed = changed_files(root) if options.changed else None
    work = []
    for invariant in invariants:
        named = not options.invariant or invariant.id in options.invariant
        in_area = not options.area or invariant.area == options.area
        if named and in_area and (invariant.tier in _RUNNABLE or options.invariant):
            numbers = [n for n in range(1, len(invariant.mutants) + 1) if not _killed(known.get((invariant.id, n)))]
            if changed is not None:
                numbers = [n for n in numbers if _touched(root, invariant, n, changed)]
            if numbers:
                work.append((invariant, tuple(numbers)))
    return Plan(root, tuple(work), _proved_ids(root, tree), options.timeout, warm=not options.cold)


def _proved_ids(root: Path, tree: str) -> frozenset[str]:
    """Invariants whose tests all passed in a run of this very tree: their baseline needs no second run."""
    try:
        run = read_results(read_suite_command(root).log)
    except UnusableResultsError:
        return frozenset()
    if not run.of_tree(tree):
        return frozenset()
    bad = {key for test in run.tests if test.outcome == "failed" for key in test.invariants}
    good = {key for test in run.tests if test.outcome == "passed" for key in test.invariants}
    return frozenset(good - bad)


def _killed(record: MutationRecord | None) -> bool:
    return record is not None and record.status == KILLED


def _touched(root: Path, invariant: Invariant, number: int, changed: set[str]) -> bool:
    sources = {invariant.mutants[number - 1].file, *files_for(root, invariant.id)}
    if invariant.path.is_relative_to(root):
        sources.add(invariant.path.relative_to(root).as_posix())
    return bool(sources & changed)


def _run_with_progress(plan: Plan, jobs: int, console: Console, tree: str) -> list[MutationRecord]:
    """Run the plan; each record is kept as it comes, so that an interrupted run goes on where it stopped."""
    kept, lock = plan.root / ".audit" / "mutants.json", Lock()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("mutants", total=plan.size)

        def done(record: MutationRecord) -> None:
            with lock:
                if read_tree_id(plan.root) != tree:
                    text = f"the files changed while {record.invariant} #{record.number} ran; its result is dropped"
                    raise TreeChangedError(f"{text}, start again")
                records = {**read_records(kept, tree), record.key: record}
                write_records(kept, tree, list(records.values()))
            progress.update(task, advance=1, description=f"mutants ({record.invariant} #{record.number})")
            colour = _COLOURS[record.status]
            progress.console.print(
                f"[{colour}]{record.status:9}[/] {record.invariant} #{record.number} {escape(record.why)}",
                highlight=False,
            )

        return run_plan(plan, jobs, done)


def _show(records: list[MutationRecord], known: int, console: Console) -> int:
    weak = [record for record in records if record.status != KILLED]
    if weak:
        table = Table(title="Mutants that no test killed", title_justify="left")
        for column in ("mutant", "status", "file", "fault", "detail"):
            table.add_column(column, overflow="fold")
        for record in weak:
            name = f"{record.invariant} #{record.number}"
            table.add_row(name, record.status, record.file, escape(record.why), escape(record.detail))
        console.print(table)
    before = f", {known} known from earlier runs of this tree" if known else ""
    console.print(f"{len(records) - len(weak)} of {len(records)} mutants killed{before}", highlight=False)
    return 1 if weak else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m audit.mutants", description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--invariant", action="append", default=[], metavar="ID", help="only this one (repeatable)")
    parser.add_argument("--area", help="only the invariants of one file contracts/invariants/AREA.yaml")
    parser.add_argument("--changed", action="store_true", help="only where file, tests or declaration differ from HEAD")
    parser.add_argument("--again", action="store_true", help="also those already killed in this tree")
    parser.add_argument("--json", type=Path, metavar="F", help="write the records of this run to F")
    parser.add_argument(
        "--jobs", type=positive_int, default=min(4, os.cpu_count() or 1), help="mutants at a time (%(default)s)"
    )
    parser.add_argument("--cold", action="store_true", help="start every run in a fresh process (slower)")
    parser.add_argument(
        "--timeout", type=positive_int, default=300, metavar="S", help="seconds per mutant (%(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
