"""`python -m audit.tally`: one count of all tests that scripts/test.sh ran, in pytest's words, as the last line of CI.

In, the report logs of the contracts and the server tier in `.audit/`; out, `N passed, M failed`, with the skipped ones
where there are any. A tier whose log is missing or cut short counts as one failure, named on a line before. POLICY-040.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from rich.console import Console

from audit.results import UnusableResultsError, read_results
from audit.suite import read_suite_command, tiers_here


def main() -> int:
    """Print the count; return 1 when something failed, else 0."""
    count, complaints = tally(Path.cwd())
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for complaint in complaints:
        console.print(f"counted as one failure: {complaint}")
    skipped = f", {count['skipped']} skipped" if count["skipped"] else ""
    console.print(f"{count['passed']} passed, {count['failed']} failed{skipped}")
    return 1 if count["failed"] else 0


def tally(root: Path) -> tuple[Counter[str], list[str]]:
    """Outcomes of the tiers that `root` has, by word; and why a tier's log cannot be counted."""
    count: Counter[str] = Counter()
    complaints = []
    for tier in tiers_here(root):
        try:
            run = read_results(read_suite_command(root, tier).log)
        except UnusableResultsError as error:
            complaints.append(f"{tier} tier: {error}")
            count["failed"] += 1
            continue
        count.update(test.outcome for test in run.tests)
        count.update(item.outcome for item in run.not_collected)
    return count, complaints


if __name__ == "__main__":
    sys.exit(main())
