"""Check configurations and name what is wrong, a line a problem: python -m coordexp.entrypoints.check_config --help."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Command line of `check_config`."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.check_config", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="configuration files (YAML)")
    parser.add_argument("--world-size", type=int, metavar="N", help="check that batches divide over N ranks too")
    parser.add_argument("--resolved", action="store_true", help="print the resolved configuration as JSON (one FILE)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; 0 when every file can be trained with, 1 otherwise, with a line on stderr for each problem and warning."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.resolved and len(args.files) > 1:
        parser.error("--resolved takes one FILE")
    if args.world_size is not None and args.world_size < 1:
        parser.error("--world-size is at least 1")
    from coordexp.config import (
        ConfigError,
        check_trainable,
        config_warnings,
        load_config,
        render_identity,
        render_resolved,
        units_per_step,
    )

    # What a file says is shown as far as the terminal's encoding can.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    failed = False
    for file in args.files:
        try:
            config = check_trainable(load_config(file))
            if args.world_size is not None:
                units_per_step(config, args.world_size)
        except ConfigError as error:
            failed = True
            sys.stderr.writelines(f"{problem}\n" for problem in error.problems)
            continue
        sys.stderr.writelines(f"warning: {warning}\n" for warning in config_warnings(config))
        sys.stdout.write(render_resolved(config) if args.resolved else f"{file}: {render_identity(config)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
