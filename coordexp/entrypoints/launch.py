"""Start a training run from environment variables: config=... gpus=... bash scripts/train.sh."""

from __future__ import annotations

import os
import sys


def main(argv: list[str]) -> int:
    """Check the configuration, then become the training process, whose exit code it is; 2 when nothing was started."""
    from coordexp.config import ConfigError, check_trainable, load_config
    from coordexp.rollout.serve import has_gpu_driver
    from coordexp.training.launch import USAGE, LaunchError, build_launch, count_gpus

    try:
        if argv:
            raise LaunchError(f"arguments are not taken ({' '.join(argv)}); write: {USAGE}")
        launch = build_launch(os.environ, gpu_driver=has_gpu_driver(), gpu_count=count_gpus())
        check_trainable(load_config(launch.config))
    except (LaunchError, ConfigError) as error:
        sys.stderr.write(f"train: {error}\n")
        return 2
    return os.execve(launch.command[0], launch.command, {**os.environ, **launch.environment})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
