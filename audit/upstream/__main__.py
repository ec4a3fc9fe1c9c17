"""`python -m audit.upstream`: compare the installed upstream packages with `contracts/upstream/`.

Exits 1 where they differ, with what moved and who uses it. `--accept` records a deliberate upgrade and shows
what changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from audit.symbols import UnknownSymbolError
from audit.upstream.contract import drop_recorded, write_recorded
from audit.upstream.installed import Installed
from audit.upstream.judge import Drift, build_records, find_drifts
from audit.upstream.survey import Survey, survey
from coordexp.spec import ContractFileError, ContractViolation, contracts_root

if TYPE_CHECKING:
    from collections.abc import Iterable


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare or accept; return the exit status."""
    options = _parser().parse_args(arguments)
    console = Console()

    def progress(symbols: Sequence[str]) -> Iterable[str]:
        shown = console.is_terminal
        return track(symbols, description="reading upstream", console=console, transient=True, disable=not shown)

    try:
        found = survey(Path.cwd(), contracts_root(), Installed(), progress)
        drifts = find_drifts(found)
    except (ContractFileError, ContractViolation, UnknownSymbolError, FileNotFoundError) as error:
        sys.stderr.write(f"audit.upstream: {error}\n")
        return 2
    show(found, drifts, console)
    return accept(found, drifts, contracts_root(), console) if options.accept else int(bool(drifts))


def show(found: Survey, drifts: Sequence[Drift], console: Console) -> None:
    """Print each drift under its package, then one line that counts."""
    for package in dict.fromkeys(drift.package for drift in drifts):
        name, version = found.versions.get(package, (package, "not installed"))
        console.print(f"[bold]{escape(name)} {escape(version)}[/]")
        for drift in (drift for drift in drifts if drift.package == package):
            _show_drift(drift, console)
    for package, reason in found.skipped.items():
        console.print(f"[yellow]{escape(package)} is not installed, so nothing of it was compared[/]: {escape(reason)}")
    count = f"{len(found.current)} symbols of {len(found.versions)} packages"
    verdict = f"[red]{len(drifts)} drifts[/]" if drifts else "[green]as recorded[/]"
    console.print(f"{count}: {verdict}")


def accept(found: Survey, drifts: Sequence[Drift], contracts: Path, console: Console) -> int:
    """Write the records unless the project still needs what is gone; return the exit status."""
    refused = [drift.symbol for drift in drifts if drift.refused]
    if refused:
        names = ", ".join(refused)
        sys.stderr.write(f"audit.upstream: nothing was written; change the code, or watched.yaml, first: {names}\n")
        return 1
    records = build_records(found)
    for package in found.watched.packages:
        if package.name in records and records[package.name] != found.recorded.get(package.name):
            path = write_recorded(contracts, package, records[package.name])
            console.print(f"wrote {escape(str(path.relative_to(contracts.parent)))}", highlight=False)
        elif package.name in found.recorded and package.name not in records:
            path = drop_recorded(contracts, package)
            console.print(f"deleted {escape(str(path.relative_to(contracts.parent)))}", highlight=False)
    return 0


def _show_drift(drift: Drift, console: Console) -> None:
    console.print(f"  [red]{escape(drift.symbol)}[/]", highlight=False, soft_wrap=True)
    for change in drift.changes:
        console.print(f"    {escape(change)}", highlight=False, soft_wrap=True)
    for user in drift.users:
        console.print(f"    [dim]<- {escape(user)}[/]", highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m audit.upstream",
        description=(
            "Compare the installed torch, transformers, ms-swift, vLLM, … with contracts/upstream/: every symbol that "
            "the project touches, with its signature. Nothing of them is imported. Exit status: 0 as recorded, "
            "1 something moved, 2 unreadable contract."
        ),
        epilog="After a deliberate upgrade, or a new use: read what it prints, then run it with --accept and commit.",
    )
    parser.add_argument("--accept", action="store_true", help="record what is installed now; prints what changed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
