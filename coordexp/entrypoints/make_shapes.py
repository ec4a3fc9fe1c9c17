"""Draw a data set of coloured shapes with COCO-style annotations: python -m coordexp.entrypoints.make_shapes --help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DEFAULT_SPLITS = ("train=2000", "val=200", "heldout=200", "heldout_crowded=200:crowded")


def build_parser() -> argparse.ArgumentParser:
    """Command line of `make_shapes`."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.make_shapes", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="new folder; each split becomes a folder in it")
    parser.add_argument("--seed", type=int, required=True, help="each image depends on (seed, split, index) alone")
    parser.add_argument(
        "--split",
        action="append",
        metavar="NAME=COUNT[:plain|crowded|mixed]",
        help=f"may be repeated; default: {' '.join(DEFAULT_SPLITS)}",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes; changes no byte of the output")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; 0 on success, 1 with a line on stderr for bad input."""
    args = build_parser().parse_args(argv)
    from coordexp.data.errors import DataError
    from coordexp.data.reports import progress
    from coordexp.data.shapes import parse_split, write_splits

    try:
        splits = [parse_split(text) for text in args.split or DEFAULT_SPLITS]
        with progress("drawing", "images", sum(split.count for split in splits)) as advance:
            write_splits(args.out, splits, args.seed, workers=args.workers, on_image=advance)
    except (DataError, ValueError) as error:
        sys.stderr.write(f"make_shapes: {error}\n")
        return 1
    for split in splits:
        sys.stdout.write(f"{split.count:7d} {split.kind} images: {args.out / split.name / 'annotations.json'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
