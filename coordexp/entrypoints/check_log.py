"""Say whether a run's log holds the metrics that it has to: python -m coordexp.entrypoints.check_log --help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Command line of `check_log`."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.check_log", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, with run_manifest.json and logging.jsonl"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; 0 when every log is in order, 1 otherwise, with a line on stderr for each problem."""
    args = build_parser().parse_args(argv)
    from coordexp.training.log_check import LogError, check_run_log

    failed = False
    for folder in args.runs:
        try:
            checked = check_run_log(folder)
        except LogError as error:
            failed = True
            sys.stderr.write(f"check_log: {error}\n")
            continue
        failed |= bool(checked.problems)
        sys.stderr.writelines(f"{folder}: {problem}\n" for problem in checked.problems)
        if checked.problems and not checked.same_contracts:
            sys.stderr.write(f"{folder}: the run was made under other contracts than those of this checkout\n")
        sys.stdout.write(f"{folder}: {checked.lines} lines, {len(checked.problems)} problems\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
