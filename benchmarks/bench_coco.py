"""What `evaluate` does besides generating, on 2,000 images of 80 categories: with hotcoco beside pycocotools.

COCO's numbers alone, and the whole: parsing, matching, measures, classes, COCO, ceiling, files and gallery. Rounds of
both engines alternate in one process; medians of CPU time are compared, which other processes disturb least.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from coordexp.artifacts.evaluation_files import EvaluatedFiles, write_evaluation
from coordexp.coordjson import render_answer
from coordexp.coords.types import CoordObject
from coordexp.coords.vocab import build_coord_vocab
from coordexp.data.types import Record
from coordexp.encode.rollout_parse import RolloutParser
from coordexp.encode.vocabulary import END_OF_TURN, build_real_tokenizer
from coordexp.evaluation.ceiling import add_ceiling
from coordexp.evaluation.coco import evaluate_coco
from coordexp.evaluation.detections import build_truth
from coordexp.evaluation.runner import Evaluation, GenerationSettings, Scored, Scoring, score_outputs
from coordexp.rollout.types import BackendSettings, RolloutOutput, RolloutRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordexp.evaluation.types import CocoEngine

IMAGES, CLASSES, SIDE, ROUNDS = 2000, 80, 640, 3
ENGINES: tuple[CocoEngine, CocoEngine] = ("pycocotools", "hotcoco")
COCO_BAR = 20.0


def build_scenes(seed: int = 0) -> tuple[list[Record], list[tuple[CoordObject, ...]]]:
    """About 14,000 objects and 24,000 predictions, most of them jittered copies of the objects."""
    rng = np.random.default_rng(seed)
    records, answers = [], []
    for number in range(IMAGES):
        count, extra = int(rng.integers(1, 14)), int(rng.integers(0, 11))
        corner, size = rng.integers(0, 500, (count + extra, 2)), rng.integers(12, 490, (count + extra, 2))
        boxes = np.concatenate([corner, corner + size], axis=1)
        said = np.clip(boxes + rng.normal(0, 9, boxes.shape).round().astype(int), 0, 999)
        said[:, 2:] = np.maximum(said[:, 2:], said[:, :2])
        names = [f"class {c}" for c in rng.integers(0, CLASSES, count + extra)]

        def objects(bins: Any, upto: int, names: list[str] = names) -> tuple[CoordObject, ...]:
            return tuple(CoordObject(names[i], "bbox_2d", tuple(map(int, bins[i]))) for i in range(upto))

        split = {"split": ("first", "second")[number % 2]}
        source = f"/data/val.jsonl:{number + 1}"
        records.append(Record(source, (f"{number}.png",), SIDE, SIDE, objects(boxes, count), metadata=split))
        answers.append(objects(said, count + extra))
    return records, answers


class Work:
    """One set of records and answers, and a folder with what evaluating them reads and writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records, said = build_scenes()
        tokenizer, rng = build_real_tokenizer(), np.random.default_rng(1)
        self.parser = RolloutParser(tokenizer, build_coord_vocab(tokenizer), allow_poly=True)
        end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
        self.outputs, self.requests = [], []
        for number, (record, objects) in enumerate(zip(self.records, said, strict=True)):
            text = render_answer(objects)
            ids = (*tokenizer(text, add_special_tokens=False)["input_ids"], end)
            chances = tuple(math.log(chance) for chance in rng.uniform(0.1, 1, len(ids)))
            self.outputs.append(RolloutOutput(record.source, (1,), ids, text, "stop", 0, token_logprobs=chances))
            path = folder / record.images[0]
            self.requests.append(RolloutRequest(record.source, (1,), (path,), number, ((SIDE, SIDE),)))
            if number % 125 == 0:
                low = rng.integers(0, 255, (SIDE // 16, SIDE // 16, 3), dtype=np.uint8)
                Image.fromarray(low).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint/model.safetensors").write_bytes(b"weights")
        (folder / "val.jsonl").write_text("{}\n", encoding="utf-8")

    def score(self, engine: CocoEngine) -> Scored:
        """The report without a ceiling, and what it compares."""
        truth = tuple(build_truth(record) for record in self.records)
        coco = partial(evaluate_coco, engine=engine)
        return score_outputs(self.parser, truth, self.outputs, Scoring("confidence"), coco=coco)

    def evaluate(self, engine: CocoEngine) -> Scored:
        """All that follows the answers."""
        scored = self.score(engine)
        whole = Scored(add_ceiling(scored.report, scored.truth, self.records), scored.truth, scored.predictions)
        made = BackendSettings("bench", "float32", 1, logprobs=True)
        settings = GenerationSettings(coco_engine=engine)
        evaluation = Evaluation(whole, tuple(self.requests), tuple(self.outputs), settings, made, 0.0)
        files = EvaluatedFiles(self.folder / "checkpoint", self.folder / "val.jsonl")
        write_evaluation(self.folder / "out", evaluation, files)
        return whole


def run() -> dict[str, Any]:
    """Seconds of each engine, COCO alone and the whole, and their ratios; `passes` compares COCO alone with the bar."""
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder))
        scored = work.score("hotcoco")
        found = {answer.sample_id: answer for answer in scored.predictions}
        alone = _medians(lambda engine: evaluate_coco(scored.truth, found, engine=engine))
        whole = _medians(work.evaluate)
    table = Table("", *ENGINES, "ratio")
    ratios = {}
    for what, seconds in (("COCO alone", alone), ("all but generating", whole)):
        ratios[what] = seconds["pycocotools"] / seconds["hotcoco"]
        table.add_row(what, *(f"{seconds[name]:.2f} s" for name in ENGINES), f"{ratios[what]:.1f}")
    boxes, said = scored.report.ground_truth_objects, scored.report.predicted_objects
    console = Console()
    console.print(f"{IMAGES} images, {boxes} objects, {said} predictions, in two splits")
    console.print(table)
    passes = ratios["COCO alone"] >= COCO_BAR
    return {"coco": alone, "whole": whole, "ratios": ratios, "coco_bar": COCO_BAR, "passes": passes}


def _medians(work: Callable[[CocoEngine], Any]) -> dict[str, float]:
    """Median CPU seconds of each engine."""
    taken: dict[str, list[float]] = {name: [] for name in ENGINES}
    for _ in range(ROUNDS):
        for name in ENGINES:
            started = time.process_time()
            work(name)
            taken[name].append(time.process_time() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


if __name__ == "__main__":
    run()
