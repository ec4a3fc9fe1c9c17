"""Validate coord JSONL files and say what they hold: python -m coordexp.entrypoints.check_data --help."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Command line of `check_data`."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.check_data", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="coord JSONL files")
    parser.add_argument(
        "--images",
        choices=("none", "exists", "open"),
        default="exists",
        help="how far to look at images (default: exists)",
    )
    parser.add_argument(
        "--root", type=Path, help="folder that image paths start from (default: ROOT_IMAGE_DIR, or each file's own)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; 0 when every record is in order, 1 otherwise, with a line on stderr for each problem."""
    args = build_parser().parse_args(argv)
    from coordexp.data.errors import DataError
    from coordexp.data.paths import image_root
    from coordexp.data.reports import progress, render_surveys
    from coordexp.data.survey import survey_file

    surveys, unreadable = [], []
    with progress("checking", "records") as advance:
        for file in args.files:
            try:
                root = args.root or image_root(file, os.environ)
                surveys.append(survey_file(file, images=args.images, root=root, on_line=advance))
            except DataError as error:
                unreadable.append(f"check_data: {error}\n")
    sys.stderr.writelines(unreadable)
    problems = [problem for survey in surveys for problem in survey.problems]
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    sys.stdout.write(render_surveys(surveys) + "\n")
    return 1 if problems or unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
