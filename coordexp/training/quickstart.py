"""The quick start: drawn shapes to a better model and a picture, through the same code as any run.

Contract ids: EVAL-018.

In: a config whose data folder may not exist yet. Out: held-out metrics of the checkpoint it starts from and of the
one it trains.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from coordexp.artifacts.evaluation_files import GALLERY_NAME, EvaluatedFiles, write_evaluation
from coordexp.config import Config, load_config, resolve_input, resolve_output
from coordexp.data.cooking import RECORDS_NAME, cook
from coordexp.data.cooking_types import CookOptions, CookSource
from coordexp.data.reports import progress
from coordexp.data.shapes import SplitSpec, write_splits
from coordexp.evaluation.job import build_job, evaluate_checkpoint
from coordexp.evaluation.runner import GenerationSettings
from coordexp.evaluation.summary import show_progress
from coordexp.evaluation.types import DetectionReport
from coordexp.rollout.types import Decoding
from coordexp.training.stage1 import run_stage1

SPLITS = (SplitSpec("train", 3000), SplitSpec("val", 40), SplitSpec("heldout", 100))
DATA_SEED = 20261121
MAX_NEW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class QuickstartOutcome:
    """Held-out reports of both checkpoints, where the trained one lies, and the gallery of its answers."""

    before: DetectionReport
    after: DetectionReport
    checkpoint: Path
    gallery: Path

    @property
    def improved(self) -> bool:
        """Whether COCO mAP is higher after training."""
        return _map(self.after) > _map(self.before)


def run_quickstart(config_path: Path, console: Console) -> QuickstartOutcome:
    """Draw and cook what is missing, evaluate, train, evaluate again. Raises what those steps raise for bad input."""
    started = time.monotonic()
    logging.getLogger("swift").setLevel(logging.WARNING)  # its notes on defaults would bury what a newcomer should see
    config = load_config(config_path)
    data = resolve_output(config, str(Path(config.custom.train_jsonl).parent.parent))
    console.rule("1/4  drawn shapes, as COCO annotations and PNG files, cooked into coord JSONL")
    build_shapes(data, config.template.max_pixels, console)
    heldout = data / "heldout" / RECORDS_NAME
    console.rule("2/4  the checkpoint it starts from, on held-out images")
    start = resolve_input(config, "model.model", config.model.model)
    before, _ = _evaluate(config, start, heldout, data.parent / "before")
    console.print(_line("before", before))
    console.rule("3/4  stage 1")
    run = run_stage1(config)
    console.rule("4/4  the trained checkpoint, on the same images")
    after, gallery = _evaluate(config, run.checkpoint, heldout, run.checkpoint.parent / "after")
    outcome = QuickstartOutcome(before, after, run.checkpoint, gallery)
    console.print(build_outcome_table(outcome))
    console.print(
        f"weights  {outcome.checkpoint}\ngallery  {outcome.gallery}\ntook     {time.monotonic() - started:.0f} s",
        soft_wrap=True,
        highlight=False,
    )
    return outcome


def build_shapes(folder: Path, max_pixels: int, console: Console) -> None:
    """Draw and cook the splits that are not there yet; a finished split is kept as it is."""
    raw = folder / "raw"
    if not raw.exists():
        with progress("drawing", "images", sum(split.count for split in SPLITS)) as advance:
            write_splits(raw, list(SPLITS), DATA_SEED, on_image=advance)
    for split in SPLITS:
        if (folder / split.name).exists():
            console.print(f"{split.name}: kept {folder / split.name}", soft_wrap=True, highlight=False)
            continue
        with progress(f"cooking {split.name}", "images") as advance:
            source = CookSource(raw / split.name / "annotations.json", raw / split.name)
            manifest = cook(source, folder / split.name, CookOptions(max_pixels), on_image=advance)
        console.print(f"{split.name}: {manifest['records']['kept']} records, {manifest['objects']['kept']} objects")


def _evaluate(config: Config, checkpoint: Path, jsonl: Path, out: Path) -> tuple[DetectionReport, Path]:
    job = build_job(config, checkpoint, GenerationSettings(Decoding(MAX_NEW_TOKENS)), jsonl=jsonl)
    with show_progress("generating") as bar:
        evaluation = evaluate_checkpoint(job, bar)
    return evaluation.report, write_evaluation(out, evaluation, EvaluatedFiles(checkpoint, jsonl)) / GALLERY_NAME


def build_outcome_table(outcome: QuickstartOutcome) -> Table:
    """Both reports side by side."""
    table = Table(title="held-out images, never trained on", title_justify="left")
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="right" if heading else "left")
    rows = {
        "answers that parse": lambda r: r.parse_rate,
        "answers truncated": lambda r: r.truncated_rate,
        "answers' length / annotated": lambda r: r.lengths.ratio,
        "F1 (IoU 0.5)": lambda r: r.detection.f1,
        "COCO mAP@.5": lambda r: r.coco.summary["mAP50"],
        "COCO mAP@[.5:.95]": _map,
    }
    for name, number in rows.items():
        table.add_row(name, *(f"{number(report) or 0.0:.3f}" for report in (outcome.before, outcome.after)))
    return table


def _map(report: DetectionReport) -> float:
    return report.coco.summary["mAP"] or 0.0


def _line(name: str, report: DetectionReport) -> str:
    return f"{name}: parse {report.parse_rate or 0.0:.3f}, F1 {report.detection.f1 or 0.0:.3f}, mAP {_map(report):.3f}"
