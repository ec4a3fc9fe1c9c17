"""The quick start's stage 1: a weak checkpoint, measured, trained on ground truth and measured again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coordexp.config import Config, resolve_input
from coordexp.demo.images import PLAIN, data_folder
from coordexp.demo.measure import Evaluator
from coordexp.demo.parts import Parts
from coordexp.demo.table import StageOutcome
from coordexp.training.stage1 import run_stage1


def show_stage1(config: Config, heldout: Mapping[str, Path], parts: Parts) -> StageOutcome:
    """Three parts; reports and pictures go beside the run. Raises what those steps raise for bad input."""
    evaluator = Evaluator(config, heldout, parts)
    start = resolve_input(config, "model.model", config.model.model)
    with parts.part("the checkpoint that stage 1 starts from, on held-out images"):
        before = evaluator.measure(start, data_folder(config).parent / "before")
    with parts.part("stage 1, on ground truth"):
        run = run_stage1(config)
    with parts.part("the checkpoint that stage 1 has trained, on the same images"):
        after = evaluator.measure(run.checkpoint, run.checkpoint.parent / "after")
    return StageOutcome("stage 1", PLAIN, before, after, run.checkpoint)
