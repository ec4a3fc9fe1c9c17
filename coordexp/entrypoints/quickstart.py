"""Draw shapes, measure and fine-tune a weak tiny Qwen3-VL with stage 1, then another with stage 2 on a live server."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def build_parser() -> argparse.ArgumentParser:
    """Flags: contracts/cli/flags.yaml."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.quickstart", description=__doc__)
    stage1, stage2 = (CONFIGS / "stage1/smoke/quickstart.yaml", CONFIGS / "stage2_two_channel/smoke/quickstart.yaml")
    parser.add_argument("--config", type=Path, default=stage1, help="stage-1 config (default: %(default)s)")
    parser.add_argument("--stage2-config", type=Path, default=stage2, help="stage-2 config (default: %(default)s)")
    parser.add_argument("--stage1-only", action="store_true", help="the short form: stage 1 alone, and no server")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when stage 1 improved its held-out mAP, 1 when it did not or a step failed; of a signal that
    ended it, 128 and its number.
    """
    arguments = build_parser().parse_args(argv)
    from rich.console import Console

    from coordexp.demo.quickstart import Stage2, run_quickstart
    from coordexp.demo.stage2 import Stage2Ended, Surroundings
    from coordexp.rollout.serve import has_gpu_driver
    from coordexp.training.input_errors import INPUT_ERRORS
    from coordexp.training.launch import LaunchError, count_gpus
    from coordexp.training.stage2_launch import Machine
    from coordexp.training.supervise import SupervisionError

    stage2 = None
    if not arguments.stage1_only:
        around = Surroundings(os.environ, Machine(has_gpu_driver(), count_gpus()))
        stage2 = Stage2(arguments.stage2_config, around)
    try:
        stages = run_quickstart(arguments.config, stage2, Console(markup=False, emoji=False))
    except (*INPUT_ERRORS, LaunchError, SupervisionError) as error:
        return refuse(str(error), 1)
    except Stage2Ended as ended:
        return refuse(str(ended), ended.exit_code)
    except KeyboardInterrupt:
        return refuse("interrupted; nothing is left running", 128 + signal.SIGINT)
    failed = [stage.verdict for stage in stages if stage.decides and not stage.improved]
    return refuse("; ".join(failed), 1) if failed else 0


def refuse(message: str, exit_code: int) -> int:
    """One message on stderr; the exit code."""
    sys.stderr.write(f"quickstart: {message}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
