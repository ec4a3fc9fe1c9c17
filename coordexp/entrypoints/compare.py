"""What differs between two runs, and what only one of them finds: python -m coordexp.entrypoints.compare."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Command line of `compare`."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.compare", description=__doc__)
    folder = "output folder of a run, or a folder that evaluate --out wrote"
    parser.add_argument("first", type=Path, metavar="RUN_A", help=folder)
    parser.add_argument("second", type=Path, metavar="RUN_B", help="the same for the other run")
    parser.add_argument(
        "--evaluation", metavar="NAME", help="evaluation folder below both runs, where they hold more than one"
    )
    parser.add_argument("--out", type=Path, help="folder for comparison.json and comparison.html with pictures")
    parser.add_argument("--pictures", type=int, default=12, help="images drawn, most different first (default 12)")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples of the images (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the resamples (default 0)")
    parser.add_argument("--all", action="store_true", help="list also what changes no number (places, names, times)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; 0 whether or not they differ, 1 with a line on stderr for bad input."""
    args = build_parser().parse_args(argv)
    from rich.console import Console

    from coordexp.artifacts.compared_runs import compare_folders
    from coordexp.artifacts.comparison_files import write_comparison
    from coordexp.artifacts.comparison_summary import render_lines
    from coordexp.artifacts.folders import FolderError, check_writable
    from coordexp.evaluation.bootstrap import Resampling
    from coordexp.evaluation.report import EvaluationError

    try:
        if args.out is not None:
            check_writable(args.out)
        resampling = Resampling(args.resamples, args.seed)
        compared = compare_folders(args.first, args.second, args.evaluation, resampling)
        if args.out is not None:
            write_comparison(args.out, compared, pictures=args.pictures)
    except (EvaluationError, FolderError) as error:
        sys.stderr.write(f"compare: {error}\n")
        return 1
    console = Console(markup=False, highlight=False, soft_wrap=True, emoji=False)
    for line in render_lines(compared, everything=args.all):
        console.print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
