"""Start stage 2 with a rollout server: config=... server_gpus=... train_gpus=... bash scripts/train_stage2.sh."""

from __future__ import annotations

import json
import os
import sys


def main(argv: list[str]) -> int:
    """Print the checked plan as one line of JSON, run it, and return its exit code; 2 when nothing was started."""
    from rich.console import Console

    from coordexp.artifacts.folders import FolderError
    from coordexp.config import ConfigError
    from coordexp.data.errors import DataError
    from coordexp.rollout.serve import has_gpu_driver
    from coordexp.training.launch import LaunchError, count_gpus
    from coordexp.training.stage2_launch import USAGE, Machine, build_stage2_launch, preflight_document
    from coordexp.training.stage2_run import run_stage2
    from coordexp.training.supervise import SupervisionError

    try:
        if argv:
            raise LaunchError(f"arguments are not taken ({' '.join(argv)}); write: {USAGE}")
        launch = build_stage2_launch(os.environ, Machine(has_gpu_driver(), count_gpus()))
        sys.stdout.write(json.dumps(preflight_document(launch)) + "\n")
        sys.stdout.flush()
        console = Console(stderr=True, markup=False, emoji=False)
        return 0 if launch.preflight_only else run_stage2(launch, os.environ, console)
    except (LaunchError, ConfigError, DataError, FolderError) as error:
        sys.stderr.write(f"train_stage2: {error}\n")
        return 2
    except SupervisionError as error:
        sys.stderr.write(f"train_stage2: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
