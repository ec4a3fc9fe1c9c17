"""Make a whole folder of any checkpoint, adapter and coord offsets merged: python -m coordexp.entrypoints.export."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Command line of `export`."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.export", description=__doc__)
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="RUN_OR_CHECKPOINT",
        help="a run's output folder (its final weights) or one of its checkpoints",
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder of the whole model")
    parser.add_argument(
        "--torch-dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="type of the weights written (default: the one they were trained in)",
    )
    parser.add_argument(
        "--model", type=Path, help="folder of the model that an adapter was trained on, where it has moved"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; 0 on success, 1 with a line on stderr for bad input."""
    args = build_parser().parse_args(argv)
    from rich.console import Console

    from coordexp.artifacts.export import EXPORT_ERRORS, export
    from coordexp.artifacts.export_source import read_source
    from coordexp.encode.processor import ProcessorError

    console = Console(stderr=True, markup=False, emoji=False)

    def tell(part: str) -> None:
        console.print(f"export: {part}", highlight=False, markup=False, soft_wrap=True)

    try:
        tell(f"checking {args.checkpoint}")
        exported = export(read_source(args.checkpoint, args.model), args.out, args.torch_dtype, tell)
    except (*EXPORT_ERRORS, ProcessorError) as error:
        sys.stderr.write(f"export: {error}\n")
        return 1
    sys.stdout.write(f"{exported.folder}: {exported.torch_dtype}, {exported.nbytes / 2**20:.1f} MiB of weights\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
