"""Draw what a run's answers found, missed and made up: python -m coordexp.entrypoints.gallery."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Command line of `gallery`."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.gallery", description=__doc__)
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="output folder of a run, a folder that evaluate --out wrote, one above them, or one of their files "
        "(predictions.jsonl, rollouts/step_*.jsonl, rollouts/eval_*.jsonl)",
    )
    parser.add_argument("--out", type=Path, help="folder for gallery.html and its pictures (default: RUN/gallery)")
    parser.add_argument("--limit", type=int, default=64, help="answers drawn of each source at most (default 64)")
    parser.add_argument(
        "--order",
        choices=("worst", "file"),
        default="worst",
        help="which of them: lowest F1 first (default), or as the files have them",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; 0 when something was drawn, 1 with a line on stderr otherwise."""
    args = build_parser().parse_args(argv)
    from rich.console import Console

    from coordexp.artifacts.folders import FolderError, check_writable
    from coordexp.artifacts.gallery_files import Wanted, write_gallery
    from coordexp.artifacts.gallery_page import PAGE_NAME, render_lines
    from coordexp.artifacts.gallery_sources import read_sources
    from coordexp.evaluation.plain_text import plain
    from coordexp.evaluation.report import EvaluationError
    from coordexp.evaluation.summary import show_progress

    out = (args.run if args.run.is_dir() else args.run.parent) / "gallery" if args.out is None else args.out
    try:
        sources = read_sources(args.run)
        with show_progress("drawing") as progress:
            page = write_gallery(check_writable(out), args.run, sources, Wanted(args.order, args.limit), progress)
    except (EvaluationError, FolderError) as error:
        sys.stderr.write(f"gallery: {plain(str(error))}\n")
        return 1
    console = Console(markup=False, highlight=False, soft_wrap=True, emoji=False)
    for line in render_lines(page):
        console.print(line)
    console.print(plain(str(out / PAGE_NAME)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
