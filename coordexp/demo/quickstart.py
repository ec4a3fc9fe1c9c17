"""The quick start: drawn shapes to better models and pictures, through the same code as any run.

In: the configurations of the stages to show, whose data folders may not exist yet. Out: held-out metrics of the
checkpoints that the stages start from and of those they train. Contract ids: EVAL-018, EVAL-031.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from coordexp.config import Config, check_trainer, load_config
from coordexp.demo.images import (
    CROWDED,
    HELDOUT,
    PLAIN,
    STAGE1_SPLITS,
    STAGE2_SPLITS,
    build_shapes,
    data_folder,
    records_of,
)
from coordexp.demo.parts import Parts
from coordexp.demo.stage1 import show_stage1
from coordexp.demo.stage2 import Surroundings, choose_devices, show_stage2
from coordexp.demo.table import StageOutcome, build_outcome_table, gallery_lines


@dataclass(frozen=True, slots=True)
class Stage2:
    """What the second stage is made of."""

    config: Path
    around: Surroundings


def run_quickstart(stage1: Path, stage2: Stage2 | None, console: Console) -> tuple[StageOutcome, ...]:
    """Draw and cook what is missing, then show stage 1 and, unless it is None, stage 2.

    Everything that can be refused is refused before stage 1 begins. Raises what the stages raise for bad input.
    """
    logging.getLogger("swift").setLevel(logging.WARNING)  # its notes on defaults would bury what a newcomer should see
    config = check_trainer(load_config(stage1), "stage1")
    if stage2 is None:
        parts = Parts(console, 4)
        return _show(parts, (show_stage1(config, _draw(config, None, parts), parts),))
    second = check_trainer(load_config(stage2.config), "stage2_two_channel")
    choose_devices(stage2.around.environment, stage2.around.machine)
    parts = Parts(console, 7)
    heldout = _draw(config, second, parts)
    stage2.around.launch(stage2.config)
    first = show_stage1(config, heldout, parts)
    return _show(parts, (first, show_stage2(second, heldout, stage2.around, parts)))


def _draw(stage1: Config, stage2: Config | None, parts: Parts) -> dict[str, Path]:
    """Held-out records by what the images are."""
    with parts.part("drawn shapes, as COCO annotations and PNG files, cooked into coord JSONL"):
        build_shapes(data_folder(stage1), STAGE1_SPLITS, stage1.template.max_pixels, parts.console)
        heldout = {PLAIN: records_of(data_folder(stage1), HELDOUT[PLAIN])}
        if stage2 is not None:
            build_shapes(data_folder(stage2), STAGE2_SPLITS, stage2.template.max_pixels, parts.console)
            heldout[CROWDED] = records_of(data_folder(stage2), HELDOUT[CROWDED])
    return heldout


def _show(parts: Parts, stages: tuple[StageOutcome, ...]) -> tuple[StageOutcome, ...]:
    parts.console.rule("what it came to", align="left")
    parts.console.print(build_outcome_table(stages))
    for stage in stages:
        parts.say(stage.verdict)
    for line in (*(f"weights  {stage.name}: {stage.checkpoint}" for stage in stages), *gallery_lines(stages)):
        parts.say(line)
    parts.say(f"took     {parts.seconds:.0f} s in all; nothing is left running")
    return stages
