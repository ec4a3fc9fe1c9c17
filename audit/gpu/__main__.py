"""`python -m audit.gpu`: show the record that the last run of the gpu tier left; `--accept` copies it for committing.

Exits 0 when a record was shown or copied, 2 where there is none or it cannot be accepted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from audit.gpu.records import GpuRecord, RecordError, accept, read_fresh
from coordexp.spec import ContractViolation

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Show or accept; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m audit.gpu", description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--accept", action="store_true", help="copy it to contracts/audit/gpu_records/")
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False)
    root = Path.cwd()
    try:
        if options.accept:
            console.print(f"accepted: {accept(root).relative_to(root)}; commit it", markup=False)
        else:
            show(read_fresh(root), console)
    except (RecordError, ContractViolation) as error:
        sys.stderr.write(f"audit.gpu: {error}\n")
        return 2
    return 0


def show(record: GpuRecord, console: Console) -> None:
    """Print a record: what it ran on, each test, each number."""
    console.print(f"{record.device}, {record.date}, revision {record.content['revision'][:12]}", markup=False)
    table = Table("test", "outcome", "reason, or what it measured")
    for test in record.content["tests"]:
        numbers = ", ".join(f"{row['name']} {row['value']:g} {row['unit']}" for row in test["numbers"])
        table.add_row(test["node"], test["outcome"], test["reason"] or numbers)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
