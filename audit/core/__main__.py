"""`python -m audit.core`: mutate the torch-free core, score at least 0.90, every survivor listed with a reason.

Works in `.audit/core/` and never touches the checkout's sources; an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from audit.arguments import positive_int
from audit.core.campaign import Selection, generate, judge, select
from audit.core.outcomes import CAUGHT, Change, Mutant, read_changes
from audit.core.score import BAR, RECORD_FILE, Score, Survival, list_survivals, score_modules, write_record
from audit.core.survivors import LIST_FILE, load_survivors, reasons, stale, unlisted
from audit.core.workspace import CoreMutationError, Workspace, open_workspace
from audit.tree import NotACheckoutError, read_tree_id
from coordexp.spec import ContractFileError, ContractViolation

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; return 0 when the score is reached and the list of survivors is exact, 1 when not, 2 without a result."""
    options = _parser().parse_args(arguments)
    console = Console()
    selection = Selection(tuple(options.module), options.sample, options.seed)
    try:
        listed = load_survivors()
        tree = read_tree_id(Path.cwd())
        workspace = open_workspace(Path.cwd(), options.again, options.keep_kills)
        mutants = _run_with_progress(workspace, selection, options.jobs, console)
        weak = [mutant for mutant in mutants if mutant.status not in CAUGHT]
        changes = read_changes(workspace.mutants, weak)
    except (CoreMutationError, NotACheckoutError, ContractFileError, ContractViolation) as error:
        sys.stderr.write(f"audit.core: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("audit.core: interrupted; the same command goes on from here\n")
        return 2
    scores, survivals = score_modules(mutants), list_survivals(weak, changes, reasons(listed))
    _show_scores(scores, console)
    _show_survivals(survivals, console)
    judged = {mutant.module for mutant in mutants} | {row.change.where.partition(":")[0] for row in listed}
    if not selection.whole:
        judged = set() if selection.sample is not None else {mutant.module for mutant in mutants}
    complaints = [_complaint("survives no more", change) for change in stale(changes.values(), listed, judged)]
    if unexplained := unlisted(changes.values(), listed):
        complaints.append(f"{len(unexplained)} mutants survive without a reason in contracts/{LIST_FILE}")
    if scores[-1].value < BAR:
        complaints.append(f"the score {scores[-1].value:.4f} is below {BAR:.2f}")
    if selection.whole and not workspace.mixed:
        write_record(workspace.root / ".audit" / RECORD_FILE, tree, scores, survivals)
    else:
        console.print("a part, or with kills of an earlier tree: good to look at, not recorded", highlight=False)
    for complaint in complaints:
        console.print(complaint, style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if complaints else 0


def _run_with_progress(workspace: Workspace, selection: Selection, jobs: int, console: Console) -> list[Mutant]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("writing the mutants", total=None)
        chosen = select(generate(workspace, jobs), selection)
        known = sum(bool(mutant.status) for mutant in chosen)
        progress.update(task, description="finding the tests of each function", total=len(chosen), completed=known)

        def seen(count: int) -> None:
            if count > known:
                progress.update(task, description="judging the mutants")
            progress.update(task, completed=count)

        return judge(workspace, chosen, jobs, seen)


def _show_scores(scores: list[Score], console: Console) -> None:
    table = Table(title="Core mutation score", title_justify="left")
    table.add_column("module")
    for column in ("generated", "killed", "timed out", "not caught", "score"):
        table.add_column(column, justify="right")
    for row in scores:
        rest = row.generated - row.killed - row.timed_out
        numbers = (row.generated, row.killed, row.timed_out, rest)
        table.add_row(row.module, *map(str, numbers), f"{row.value:.4f}", end_section=row is scores[-2])
    console.print(table)


def _show_survivals(survivals: list[Survival], console: Console) -> None:
    for row in survivals:
        console.print(f"{row.status}: {row.where}", style="yellow", markup=False, highlight=False)
        for mark, lines in (("-", row.before), ("+", row.after)):
            for line in lines.splitlines():
                console.print(f"  {mark} {line}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"  {row.why or 'no reason is listed'}", style="dim", markup=False, highlight=False)


def _complaint(what: str, change: Change) -> str:
    return f"{what} (contracts/{LIST_FILE}): {change.where}: {change.before!r} -> {change.after!r}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m audit.core", description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument(
        "--module", action="append", default=[], metavar="NAME", help="only this package or module (repeatable)"
    )
    parser.add_argument("--sample", type=positive_int, metavar="N", help="only N mutants, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0, help="which sample (%(default)s)")
    parser.add_argument(
        "--jobs", type=positive_int, default=os.cpu_count() or 1, help="mutants at a time (%(default)s)"
    )
    parser.add_argument("--again", action="store_true", help="judge again what was judged in this tree")
    parser.add_argument(
        "--keep-kills", action="store_true", help="after a change, judge only what was not killed (not recorded)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
