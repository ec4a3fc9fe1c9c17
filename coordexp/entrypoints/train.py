"""`python -m coordexp.entrypoints.train --config FILE`: training from one YAML file, by the variant that it names."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from coordexp.config import ConfigError, config_warnings, load_config
from coordexp.training.ranks import is_first_rank

if TYPE_CHECKING:
    from coordexp.config import Config
    from coordexp.training.trainer import FinishedRun


def log_progress() -> None:
    """Shows on stderr what the project's own loggers say: everything on the first rank, warnings on the others."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("coordexp")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if is_first_rank() else logging.WARNING)


def train_stage1(config: Config) -> FinishedRun:
    """Ground truth alone."""
    from coordexp.training.stage1 import run_stage1

    return run_stage1(config)


def train_two_channel(config: Config) -> FinishedRun:
    """Ground truth and rollouts, by the schedule."""
    from coordexp.training.stage2_two_channel import run_stage2_two_channel

    return run_stage2_two_channel(config)


def train_rollout_aligned(config: Config) -> FinishedRun:
    """Rollouts alone."""
    from coordexp.training.stage2_rollout_aligned import run_stage2_rollout_aligned

    return run_stage2_rollout_aligned(config)


TRAINERS: Mapping[str, Callable[[Config], FinishedRun]] = {
    "stage1": train_stage1,
    "stage2_two_channel": train_two_channel,
    "stage2_rollout_aligned": train_rollout_aligned,
}
"""What trains which `custom.trainer_variant`; each imports its trainer when it is asked."""


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 after a finished run or dry run, 1 with one message on stderr for bad input.

    A fault of the program is no bad input: it ends in its traceback.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, type=Path, help="YAML file; everything about the run is in it")
    parser.add_argument(
        "--dry-run", action="store_true", help="check all that a run needs, write the resolved config, stop"
    )
    arguments = parser.parse_args(argv)
    console = Console(stderr=True, markup=False, emoji=False)
    try:
        config = load_config(arguments.config)
        for warning in config_warnings(config) if is_first_rank() else ():
            console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    except ConfigError as error:
        return refuse(console, error)
    from coordexp.training.input_errors import INPUT_ERRORS

    try:
        if arguments.dry_run:
            from coordexp.training.dry_run import dry_run

            for line in dry_run(config):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            return 0
        from coordexp.training.process_group import end_process_group

        log_progress()
        run = TRAINERS[config.custom.trainer_variant](config)
    except INPUT_ERRORS as error:
        return refuse(console, error)
    # After a failure the other ranks may wait in a collective: the launcher ends them.
    end_process_group()
    console.print(f"weights: {run.checkpoint}", highlight=False, soft_wrap=True)
    return 0


def refuse(console: Console, error: Exception) -> int:
    """Show bad input as its message alone; the exit code."""
    console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
