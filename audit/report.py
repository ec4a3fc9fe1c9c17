"""`python -m audit.report`: what holds in this exact tree, by executed tests. Exit 0 when no test, evidence or mutant
that ran here speaks against it; what did not run (other tiers, mutants, the core run) is listed.

Reads the results of this tree in `.audit/`, or runs the contracts and the server tier first; writes
report.{md,json,html} there. Contract ids: SPEC-009, SPEC-020.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from audit.gather import gather_report, read_runs
from audit.render import print_summary, render_html, render_markdown
from audit.results import UnusableResultsError, begun_tree, read_results
from audit.suite import CONTRACTS, read_suite_command, run_suite, tiers_here
from audit.tree import NotACheckoutError, read_tree_id
from coordexp.artifacts.provenance import read_versions
from coordexp.spec import ContractFileError, ContractViolation

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMPLETED = (0, 1)


class NoResultsError(Exception):
    """There are no usable results of this tree."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report and print its summary; return 0 for green, 1 for red, 2 when there is nothing to report on."""
    options = _parser().parse_args(arguments)
    console = Console()
    root = Path.cwd()
    try:
        tree = ensure_results(root, console, may_run=not options.no_run)
        runs, described = read_runs(read_suite_command(root).log.parent, tree)
        report = gather_report(root, tree, runs, described)
    except (NoResultsError, NotACheckoutError, ContractFileError, ContractViolation, SyntaxError) as error:
        sys.stderr.write(f"audit.report: {error}\n")
        return 2
    paths = write_report(report, options.output or root / ".audit")
    print_summary(report, console)
    console.print(f"report: {paths['html']}", soft_wrap=True, highlight=False)
    return 0 if report["verdict"] == "green" else 1


def ensure_results(root: Path, console: Console, may_run: bool) -> str:
    """The tree id, once complete results of it exist; `NoResultsError` when they cannot or may not be made.

    Where nothing may run, a server tier that has not been run in this tree is left to the report's list.
    """
    tree = read_tree_id(root)
    for tier in tiers_here(root):
        complaint = _complaint(root, tree, tier)
        if not complaint or not (
            may_run or tier == CONTRACTS or begun_tree(read_suite_command(root, tier).log) == tree
        ):
            continue
        if not may_run:
            raise NoResultsError(f"{complaint} (without --no-run this command does)")
        console.print(complaint, highlight=False, markup=False)
        status = run_suite(root, console, tier)
        complaint = _complaint(root, tree, tier)
        if complaint or status not in _COMPLETED:
            raise NoResultsError(f"the {tier} tier gave no usable results (pytest exit status {status}): {complaint}")
    return tree


def write_report(report: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Write the three forms; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"report.{kind}" for kind in ("md", "json", "html")}
    paths["md"].write_text(render_markdown(report), encoding="utf-8")
    paths["json"].write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    paths["html"].write_text(render_html(report), encoding="utf-8")
    return paths


def _complaint(root: Path, tree: str, tier: str) -> str:
    """Why a tier's results cannot be used; empty when they are complete and of this tree."""
    suite = read_suite_command(root, tier)
    try:
        run = read_results(suite.log)
    except UnusableResultsError as error:
        return str(error)
    if not run.of_tree(tree):
        if run.before != run.after:
            return f"the files changed while the {tier} tier ran; run it again"
        return f"the results of the {tier} tier belong to another tree; run it again"
    if run.left_out or run.arguments != suite.options:
        given = shlex.join(run.arguments)
        return f"the results are of a part of the {tier} tier ({run.left_out} tests left out by: {given}); run it again"
    versions = read_versions()
    if run.versions != versions:
        moved = sorted(name for name, version in versions.items() if run.versions.get(name) != version)
        return f"the results of the {tier} tier were made with other versions of {', '.join(moved)}; run it again"
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m audit.report", description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument(
        "--no-run", action="store_true", help="refuse, with exit status 2, when this tree has no results"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the three files (.audit)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
