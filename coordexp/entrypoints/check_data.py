"""Validate coord JSONL files and say what they hold: python -m coordexp.entrypoints.check_data --help."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Command line of `check_data`."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.check_data", description=__doc__)
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="coord JSONL files (default: those that --config names)"
    )
    parser.add_argument(
        "--images",
        choices=("none", "exists", "headers", "open"),
        default="exists",
        help="how far to look at images (default: exists): headers as the dry run, open as training",
    )
    parser.add_argument(
        "--root", type=Path, help="folder that image paths start from (default: ROOT_IMAGE_DIR, or each file's own)"
    )
    parser.add_argument(
        "--config", type=Path, help="training configuration: what it would refuse (length, size, polygons) is told too"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; 0 when every record is in order, 1 otherwise, with a line on stderr for each problem.

    Images that two of the files hold are a warning there, and no problem.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if not args.files and args.config is None:
        parser.error("name a FILE to check, or a --config that names them")
    from coordexp.config import ConfigError, load_config
    from coordexp.data.errors import DataError
    from coordexp.data.file_check import Look, check_files, shared_image_warnings
    from coordexp.data.reports import progress, render_surveys
    from coordexp.data.run_inputs import configured_root, find_record_files

    try:
        config = None if args.config is None else load_config(args.config)
        root = args.root or (None if config is None else configured_root(config))
        files = args.files
        if config is not None and not files:
            files = [file.jsonl for file in find_record_files(config).values()]
        with progress("checking", "records") as advance:
            checked = check_files(files, Look(args.images, root, os.environ), advance)
        if config is not None:
            from coordexp.encode.file_check import check_against

            with progress("encoding", "records") as advance:
                check_against(config, checked.surveys, advance)
        warnings = shared_image_warnings(checked, args.images)
    except (ConfigError, DataError) as error:
        sys.stderr.write(f"check_data: {error}\n")
        return 1
    sys.stderr.writelines(f"check_data: {line}\n" for line in checked.unreadable)
    sys.stderr.writelines(f"{line}\n" for line in checked.problems)
    sys.stderr.writelines(f"warning: {line}\n" for line in warnings)
    sys.stdout.write(render_surveys(checked.surveys) + "\n")
    return 1 if checked.problems or checked.unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
