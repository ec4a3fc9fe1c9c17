"""Answers by the grammar beside free ones of the same checkpoint: 96 crowded images that it has not seen, HF backend.

Greedy, and sampled at temperatures 1.0 and 1.5 by one seed an image. Form is the share of answers that end and parse
strictly but for the order of a box's corners, which no regular expression says. Seconds are CPU seconds of one thread.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from coordexp.coordjson import render_expression
from coordexp.data.cooking import RECORDS_NAME, cook
from coordexp.data.cooking_types import CookOptions, CookSource
from coordexp.data.records import read_records
from coordexp.data.shapes import SplitSpec, write_splits
from coordexp.encode.encoder import build_encoder
from coordexp.encode.processor import load_processor
from coordexp.encode.settings import EncodeSettings
from coordexp.encode.vocabulary import build_real_tokenizer
from coordexp.evaluation.job import load_merged_model
from coordexp.evaluation.runner import GenerationSettings, evaluate_model
from coordexp.rollout.grammar import GrammarRows, TokenGrammar
from coordexp.rollout.hf import HfBackend
from coordexp.rollout.types import Decoding

if TYPE_CHECKING:
    from coordexp.data.types import Record
    from coordexp.evaluation.runner import Evaluation

CHECKPOINT = Path(__file__).resolve().parents[1] / "fixtures/tiny-qwen3vl"
IMAGES, SEED, BATCH, LIMIT = 96, 2, 32, 256
TEMPERATURES = (0.0, 1.0, 1.5)
TIME_BAR = 1.25
_SHOWN = {"parse": 3, "form": 3, "ended": 3, "F1": 3, "objects": 1, "tokens": 0, "ms/token": 2, "s/rollout": 3}
MASK_ROWS, MASK_VOCABULARY = 32, 152_704


def run() -> dict[str, Any]:
    """Rates, F1 and seconds of both at each temperature; `passes`: all that end have the form, at little cost."""
    processor = load_processor(CHECKPOINT)
    encoder = build_encoder(processor, EncodeSettings())
    backend = HfBackend(load_merged_model(CHECKPOINT, "float32", "sdpa"), processor, decode_batch_size=BATCH)
    table, rows = Table("answers", *_SHOWN), []
    with tempfile.TemporaryDirectory() as folder:
        records = draw(Path(folder))
        for temperature in TEMPERATURES:
            for grammar in (None, render_expression(encoder.settings.field_order)):
                decoding = Decoding(LIMIT, temperature, seed_base=SEED, grammar=grammar)
                # The first batch of a kind pays for what is compiled once.
                evaluate_model(backend, encoder, records[:BATCH], GenerationSettings(decoding, "constant"))
                started = time.process_time()
                found = evaluate_model(backend, encoder, records, GenerationSettings(decoding, "constant"))
                row = {"temperature": temperature, "grammar": grammar is not None}
                rows.append(row | measure(found, time.process_time() - started))
                cells = (f"{rows[-1][key]:.{digits}f}" for key, digits in _SHOWN.items())
                table.add_row(f"{temperature:g} {'grammar' if grammar else 'free'}", *cells)
    console, mask = Console(), time_mask()
    console.print(table)
    console.print(f"a mask of {MASK_ROWS} rows of {MASK_VOCABULARY:,} tokens: {mask:.1f} ms")
    ratios = [with_it["ms/token"] / without["ms/token"] for without, with_it in zip(rows[::2], rows[1::2], strict=True)]
    passes = all(row["form"] == 1 for row in rows[1::2]) and max(ratios) <= TIME_BAR
    return {"rows": rows, "time_ratios": ratios, "time_bar": TIME_BAR, "mask_ms": mask, "passes": passes}


def time_mask() -> float:
    """CPU milliseconds of a step's mask on the real vocabulary, in the middle of answers."""
    tokenizer = build_real_tokenizer()
    grammar = TokenGrammar(render_expression("desc_first"), tokenizer, MASK_VOCABULARY)
    text = '{"objects": [{"desc": "a cat on a black sofa, behind a table", '
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    rows, scores = GrammarRows(grammar, MASK_ROWS), torch.zeros(MASK_ROWS, MASK_VOCABULARY)
    started = time.process_time()
    for end in range(len(ids)):
        rows.mask(torch.tensor([ids[:end] or [0]] * MASK_ROWS), scores)
    return 1000 * (time.process_time() - started) / len(ids)


def draw(folder: Path) -> list[Record]:
    """Crowded scenes as the held-out ones of docs/results.md are drawn, by another seed."""
    name = "heldout_crowded"
    write_splits(folder / "raw", [SplitSpec(name, IMAGES, "crowded")], SEED)
    source = CookSource(folder / f"raw/{name}/annotations.json", folder / f"raw/{name}")
    cook(source, folder / name, CookOptions(65536))
    return list(read_records(folder / name / RECORDS_NAME))


def measure(found: Evaluation, seconds: float) -> dict[str, float]:
    """What an evaluation says of its answers."""
    report, answers = found.report, len(found.outputs)
    tokens = sum(len(output.response_token_ids) for output in found.outputs)
    ended = [
        {prediction.parse.failure, *(drop.reason for drop in prediction.parse.dropped)} <= {None, "bbox_invalid"}
        for prediction, output in zip(found.scored.predictions, found.outputs, strict=True)
        if output.finish_reason == "stop"
    ]
    return {
        "parse": report.parse_rate or 0.0,
        "form": sum(ended) / max(1, len(ended)),
        "ended": len(ended) / answers,
        "F1": report.detection.f1 or 0.0,
        "objects": report.predicted_objects / answers,
        "tokens": tokens / answers,
        "ms/token": 1000 * seconds / tokens,
        "s/rollout": seconds / answers,
    }


if __name__ == "__main__":
    run()
