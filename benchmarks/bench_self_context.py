"""Channel A by its forwards and its gradient mode: time, and memory kept for the backward, beside one teacher forward.

Drawn shapes in one packed row on the tiny trained model. What is kept is counted exactly: the storages that autograd
saves, parameters left out, so the machine plays no part in it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from coordexp.config import load_config, resolve_input
from coordexp.data.cooking import RECORDS_NAME, cook
from coordexp.data.cooking_types import CookOptions, CookSource
from coordexp.data.records import read_records
from coordexp.data.shapes import SplitSpec, write_splits
from coordexp.encode.encoder import Encoder, PreparedRecord, build_encoder
from coordexp.encode.processor import load_processor
from coordexp.evaluation.job import load_merged_model
from coordexp.forward.head import install_vocabulary_head
from coordexp.forward.self_context import GradMode, SelfContext
from coordexp.losses.defaults import resolve_manifest
from coordexp.losses.masks import Provenance
from coordexp.losses.objective import build_objective
from coordexp.packing.positions import build_rope_index
from coordexp.training.forwards import ForwardBuilder, agree
from coordexp.training.loop import ForwardRunner
from coordexp.training.types import Placement, StepKind, StepPlan

CONFIG = Path(__file__).resolve().parents[1] / "configs/stage2_two_channel/smoke/a_only.yaml"
IMAGES = 8
RUNS: tuple[tuple[int, GradMode], ...] = (
    (1, "unroll"),
    (2, "unroll"),
    (2, "em_detach"),
    (4, "unroll"),
    (4, "em_detach"),
)


def prepare_shapes(encoder: Encoder) -> list[PreparedRecord]:
    """Some drawn scenes, read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_splits(folder / "raw", [SplitSpec("plain", IMAGES)], 5)
        source = CookSource(folder / "raw/plain/annotations.json", folder / "raw/plain")
        cook(source, folder / "plain", CookOptions(65536))
        return [encoder.prepare(record, folder / "plain") for record in read_records(folder / "plain" / RECORDS_NAME)]


def measure(model: torch.nn.Module, run: ForwardRunner, plan: StepPlan, repeats: int) -> tuple[float, float]:
    """Median CPU seconds of forward and backward, and MiB that the forward keeps for the backward."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    (planned,) = plan.forwards
    seconds = []
    for _ in range(repeats + 1):
        kept.clear()
        model.zero_grad(set_to_none=True)
        started = time.process_time()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            total = run(model, planned, plan.normalizers).total
        total.backward()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[1:]), sum(kept.values()) / 2**20


def run(repeats: int = 3) -> dict[str, float]:
    """Print and return time and memory of each kind of step over those of one teacher forward of the same row."""
    config = load_config(CONFIG)
    checkpoint = resolve_input(config, "model.model", config.model.model)
    encoder = build_encoder(load_processor(checkpoint), config)
    model = load_merged_model(checkpoint, "float32", "segments").train()
    install_vocabulary_head(model)
    objective, rope = build_objective(resolve_manifest(config)), build_rope_index(model.config)
    prepared, device = prepare_shapes(encoder), torch.device("cpu")

    def step(then: Provenance | None, settings: SelfContext) -> tuple[float, float]:
        builder = ForwardBuilder(encoder, rope, objective, Provenance.A1, then=then)
        plan = agree(StepKind.A, [builder.from_records([prepared])], builder.filler, device)
        runner = ForwardRunner(encoder, objective, encoder.coords.ids, Placement(device), settings)
        return measure(model, runner, plan, repeats)

    alone = step(None, SelfContext(1))
    table = Table(title=f"{IMAGES} drawn scenes in a row, {torch.get_num_threads()} threads: over one teacher forward")
    for column in ("forwards", "gradients", "CPU time", "kept for the backward"):
        table.add_column(column, justify="right")
    found = {"teacher_forward_kept_mib": alone[1]}
    for iterations, mode in RUNS:
        seconds, kept = step(Provenance.A2, SelfContext(iterations, mode))
        ratios = seconds / alone[0], kept / alone[1]
        table.add_row(f"{iterations}", mode, *(f"{ratio:.2f}" for ratio in ratios))
        found |= {f"time_{iterations}_{mode}": ratios[0], f"kept_{iterations}_{mode}": ratios[1]}
    Console().print(table)
    return found
