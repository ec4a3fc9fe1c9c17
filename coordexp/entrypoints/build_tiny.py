"""Write an untrained tiny Qwen3-VL whose vocabulary is cut for the drawn shapes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run; 0 on success, 1 with a line on stderr when the folder is taken."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.build_tiny", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="new folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights (default 0)")
    arguments = parser.parse_args(argv)
    from coordexp.forward.tiny import write_tiny_checkpoint

    try:
        parameters = write_tiny_checkpoint(arguments.out, seed=arguments.seed)
    except FileExistsError as error:
        sys.stderr.write(f"build_tiny: {error}\n")
        return 1
    sys.stdout.write(f"{arguments.out}: {parameters:,} parameters\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
