"""Packed rows under `segments` beside padded batches under `sdpa`: the same samples, one process, forward to backward.

Drawn shapes, cooked and encoded, on the tiny trained model. Each row of the plan is one training step (forward,
stage-1 objective, backward), and the padded step takes the same samples; sides alternate. Then how the time of packed
rows grows with their tokens.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from coordexp.config import Config, load_config, resolve_input
from coordexp.coords.vocab import build_coord_vocab
from coordexp.data.cooking import RECORDS_NAME, cook
from coordexp.data.cooking_types import CookOptions, CookSource
from coordexp.data.records import read_records
from coordexp.data.shapes import SplitSpec, write_splits
from coordexp.encode.encoder import Encoder, build_encoder
from coordexp.encode.processor import load_processor
from coordexp.encode.types import EncodedSample
from coordexp.evaluation.job import load_merged_model
from coordexp.forward.head import output_head
from coordexp.forward.teacher import hidden_states
from coordexp.losses.masks import Provenance
from coordexp.losses.normalizers import count_normalizers
from coordexp.losses.objective import Objective, build_stage1_objective
from coordexp.losses.vocab import score_hidden
from coordexp.packing.collate import collate_packed, collate_padded
from coordexp.packing.plan import build_plan
from coordexp.packing.positions import build_rope_index
from coordexp.packing.types import PackedBatch

CONFIG = Path(__file__).resolve().parents[1] / "configs/stage1/smoke/shapes.yaml"
ROWS = (512, 1024, 2048, 4096, 8192)
TOKENS = 24_576
SPEED_BAR, EXPONENT_BAR = 1.2, 1.15
SIDES = (("packed", "segments"), ("packed", "sdpa"), ("padded", "sdpa"))


def encode_shapes(folder: Path, encoder: Encoder) -> list[EncodedSample]:
    """Plain and crowded scenes in turn until their tokens reach `TOKENS`."""
    write_splits(folder / "raw", [SplitSpec("plain", 120), SplitSpec("crowded", 120, "crowded")], 5)
    kinds = []
    for name in ("plain", "crowded"):
        source = CookSource(folder / "raw" / name / "annotations.json", folder / "raw" / name)
        cook(source, folder / name, CookOptions(65536))
        kinds.append([encoder.encode(record, folder / name) for record in read_records(folder / name / RECORDS_NAME)])
    samples: list[EncodedSample] = []
    for pair in zip(*kinds, strict=True):
        samples += pair
        if sum(map(len, samples)) >= TOKENS:
            return samples
    raise ValueError(f"the drawn scenes hold fewer than {TOKENS} tokens")


@dataclass(frozen=True, eq=False)
class Bench:
    """The model, its objective, and how samples become a batch of either layout."""

    model: torch.nn.Module
    objective: Objective
    coord_ids: tuple[int, ...]
    collate: dict[str, Callable[[list[EncodedSample]], PackedBatch]]

    def step(self, layout: str, attn_impl: str, samples: list[EncodedSample]) -> tuple[float, float]:
        """CPU seconds and loss of one forward, objective and backward; collating stays outside, as in a worker."""
        batch = self.collate[layout](samples)
        context = self.objective.context(batch, Provenance.STAGE1)
        normalizers = count_normalizers(context)
        self.model.set_attn_implementation(attn_impl)
        self.model.zero_grad(set_to_none=True)
        started = time.process_time()
        score = score_hidden(hidden_states(self.model, batch), output_head(self.model, self.coord_ids))
        total = self.objective(context, score, normalizers).total
        total.backward()
        return time.process_time() - started, float(total.detach())


def measure_row(bench: Bench, packs: list[list[EncodedSample]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of one pass over `packs` for each side, and how far the losses of two sides lie apart."""
    seconds: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    for turn in range(repeats + 1):
        for layout, attn_impl in SIDES:
            name = f"{layout} {attn_impl}"
            steps = [bench.step(layout, attn_impl, samples) for samples in packs]
            if turn:
                seconds.setdefault(name, []).append(sum(spent for spent, _ in steps))
            losses[name] = [loss for _, loss in steps]
    samples, tokens = sum(map(len, packs)), sum(len(sample) for pack in packs for sample in pack)
    row = {f"{name} samples/s": samples / statistics.median(spent) for name, spent in seconds.items()}
    ours, theirs = losses["packed segments"], losses["padded sdpa"]
    return row | {
        "packed over padded": row["packed segments samples/s"] / row["padded sdpa samples/s"],
        "seconds a row": statistics.median(seconds["packed segments"]) / len(packs),
        "tokens a row": tokens / len(packs),
        "loss difference": max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)),
    }


def build_bench(config: Config, model: torch.nn.Module, encoder: Encoder) -> Bench:
    """The trained tiny model in training mode with the objective of `config`."""
    rope, tokenizer = build_rope_index(model.config), encoder.tokenizer
    pad_id = int(tokenizer.pad_token_id)
    collate: dict[str, Callable[[list[EncodedSample]], PackedBatch]] = {
        "packed": lambda samples: collate_packed(samples, rope),
        "padded": lambda samples: collate_padded(samples, rope, pad_id),
    }
    objective = build_stage1_objective(config.custom)
    return Bench(model.train(), objective, build_coord_vocab(tokenizer).ids, collate)


def run(rows: tuple[int, ...] = ROWS, repeats: int = 3) -> dict[str, float]:
    """Print samples a second by row length; return the worst ratio, the exponent, their bars and the worst loss."""
    config = load_config(CONFIG)
    checkpoint = resolve_input(config, "model.model", config.model.model)
    encoder = build_encoder(load_processor(checkpoint), config)
    with tempfile.TemporaryDirectory() as folder:
        samples = encode_shapes(Path(folder), encoder)
    bench = build_bench(config, load_merged_model(checkpoint, "float32", "segments"), encoder)
    found = {}
    for cap in rows:
        plan = build_plan([len(sample) for sample in samples], cap)
        # A last, half-filled row would make the average row shorter than its name.
        full = [pack for pack in plan.packs if sum(len(samples[i]) for i in pack) > 0.9 * cap]
        found[cap] = measure_row(bench, [[samples[i] for i in pack] for pack in full], repeats)
    lengths, seconds = ([row[name] for row in found.values()] for name in ("tokens a row", "seconds a row"))
    result = {
        "worst_packed_over_padded": min(row["packed over padded"] for row in found.values()),
        "target_packed_over_padded": SPEED_BAR,
        "exponent": float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0]),
        "target_exponent": EXPONENT_BAR,
        "worst_loss_difference": max(row["loss difference"] for row in found.values()),
    }
    threads = torch.get_num_threads()
    table = Table(title=f"{len(samples)} drawn scenes, forward, objective and backward, {threads} threads, CPU time")
    for column in ("row", *next(iter(found.values()))):
        table.add_column(column, justify="right")
    for cap, row in found.items():
        table.add_row(f"{cap}", *(f"{value:.4g}" for value in row.values()))
    console = Console(width=160)
    console.print(table)
    console.print(", ".join(f"{name} {value:.4g}" for name, value in result.items()))
    return result
