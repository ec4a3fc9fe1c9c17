"""Draw shapes, evaluate a weak tiny Qwen3-VL, fine-tune it with stage 1, and evaluate it again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DEFAULT_CONFIG = Path(__file__).resolve().parents[2] / "configs/stage1/smoke/quickstart.yaml"


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when training improved the held-out mAP, 1 when it did not or a step failed."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.quickstart", description=__doc__)
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="stage-1 config (default: %(default)s)")
    arguments = parser.parse_args(argv)
    from rich.console import Console

    from coordexp.training.input_errors import INPUT_ERRORS
    from coordexp.training.quickstart import run_quickstart

    try:
        outcome = run_quickstart(arguments.config, Console())
    except INPUT_ERRORS as error:
        sys.stderr.write(f"quickstart: {error}\n")
        return 1
    if not outcome.improved:
        sys.stderr.write("quickstart: the held-out mAP did not improve; see the two reports beside the galleries\n")
    return 0 if outcome.improved else 1


if __name__ == "__main__":
    sys.exit(main())
