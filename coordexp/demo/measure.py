"""A checkpoint on held-out images: its configuration and records in, numbers and a picture out. EVAL-030.

Through the same evaluation as `coordexp.entrypoints.evaluate`, with the model generating its answers itself, greedily.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coordexp.artifacts.evaluation_files import GALLERY_NAME, EvaluatedFiles, write_evaluation
from coordexp.config import Config
from coordexp.demo.parts import Parts
from coordexp.evaluation.job import build_job, evaluate_checkpoint
from coordexp.evaluation.runner import GenerationSettings
from coordexp.evaluation.summary import show_progress
from coordexp.evaluation.types import DetectionReport
from coordexp.matching.duplicates import count_near_duplicates
from coordexp.rollout.types import Decoding

MAX_NEW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Measured:
    """What a checkpoint's answers to one set of images are worth, and the picture of some of them."""

    report: DetectionReport
    near_duplicates: int
    gallery: Path

    @property
    def mean_precision(self) -> float:
        """COCO mAP@[.5:.95]; 0 where nothing is annotated."""
        return self.report.coco.summary["mAP"] or 0.0


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Evaluates checkpoints of `config` on every set of `heldout`, by its name."""

    config: Config
    heldout: Mapping[str, Path]
    parts: Parts

    def measure(self, checkpoint: Path, out: Path) -> dict[str, Measured]:
        """Numbers by set of images; reports and pictures go to `out/<set>`. Raises one of evaluation's input errors."""
        return {name: self._measure(checkpoint, name, jsonl, out / name) for name, jsonl in self.heldout.items()}

    def _measure(self, checkpoint: Path, name: str, jsonl: Path, out: Path) -> Measured:
        job = build_job(self.config, checkpoint, GenerationSettings(Decoding(MAX_NEW_TOKENS)), jsonl=jsonl)
        with show_progress(f"answers to {name} images") as bar:
            evaluation = evaluate_checkpoint(job, bar)
        folder = write_evaluation(out, evaluation, EvaluatedFiles(checkpoint, jsonl))
        answers = evaluation.scored.predictions
        copies = sum(count_near_duplicates(found.item for found in answer.parse.objects).objects for answer in answers)
        measured = Measured(evaluation.report, copies, folder / GALLERY_NAME)
        report, precision = measured.report, measured.mean_precision
        self.parts.say(
            f"{report.images} {name} images: parse {report.parse_rate or 0.0:.3f}, "
            f"F1 {report.detection.f1 or 0.0:.3f}, mAP {precision:.3f}"
        )
        return measured
