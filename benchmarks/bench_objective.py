"""The whole objective, all terms on, against F.cross_entropy over the same hidden states and 152,704 classes.

Forward and backward of 1,024 supervised tokens, 200 of them coord tokens, both sides alternating in one process, in
wall and in CPU time. Memory is the rise of the resident high-water mark during one step, and what autograd keeps
between forward and backward. Then the objective alone at half and twice the tokens.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from coordexp.encode.types import IGNORE_INDEX, ObjectSlots, TokenSubset, TokenType
from coordexp.forward.head import OutputHead
from coordexp.losses.manifest import Manifest, ModuleEntry
from coordexp.losses.masks import Provenance
from coordexp.losses.normalizers import count_normalizers
from coordexp.losses.objective import build_objective
from coordexp.losses.registry import OBJECTIVE_MODULES
from coordexp.losses.specs.coord_diag import CoordDiagConfig
from coordexp.losses.specs.types import ModuleSpec
from coordexp.losses.vocab import score_hidden
from coordexp.packing.types import PackedBatch, Segment

CLASSES, FIRST_COORD = 152_704, 151_670
TIME_BAR, MEMORY_BAR = 1.10, 0.5
SIDES = ("objective", "cross_entropy")
GROWING = ("wall_seconds", "cpu_seconds", "peak_mb")


def weigh_terms(spec: ModuleSpec) -> ModuleEntry:
    """A module with each of its terms at weight 1."""
    return ModuleEntry(spec.name, spec.config(**{term.weight: 1.0 for part in spec.components for term in part.terms}))


EVERY_TERM = tuple(weigh_terms(spec) for spec in OBJECTIVE_MODULES.values())


@dataclass(frozen=True, slots=True)
class Case:
    """Sizes and precision of one comparison. `barred`: one that the targets are about."""

    name: str
    hidden: int
    tokens: int = 1024
    coords: int = 200
    dtype: torch.dtype = torch.float32
    autocast: bool = False
    barred: bool = True


CASES = (
    Case("float32, H = 128", 128),
    Case("float32, H = 1024", 1024),
    Case("autocast to bfloat16, H = 1024", 1024, autocast=True),
    Case("bfloat16 weights, H = 1024", 1024, dtype=torch.bfloat16, barred=False),
)


def build_batch(tokens: int, coords: int) -> PackedBatch:
    """A packed row whose every token but the first is supervised, with boxes of four coord tokens."""
    types = torch.full((tokens + 1,), int(TokenType.STRUCT))
    types[1::5] = int(TokenType.DESC)
    ids = torch.randint(0, FIRST_COORD, (tokens + 1,))
    objects = []
    for first in range(2, 2 + coords * 5, 20):
        at = tuple(range(first, first + 4))
        bins = tuple(sorted(torch.randint(0, 1000, (4,)).tolist()))
        objects.append(ObjectSlots("bbox_2d", at, (bins[0], bins[1], bins[2], bins[3])))
        types[list(at)] = int(TokenType.COORD)
        ids[list(at)] = FIRST_COORD + torch.tensor(bins)
    types[0], types[-1] = int(TokenType.OTHER), int(TokenType.EOS)
    row = ids[None]
    return PackedBatch(
        input_ids=row,
        labels=torch.where(types == int(TokenType.OTHER), IGNORE_INDEX, ids)[None],
        token_types=types[None],
        subsets=torch.full_like(row, int(TokenSubset.GT)),
        mm_token_type_ids=torch.zeros_like(row),
        position_ids=torch.zeros(4, *row.shape, dtype=torch.int64),
        segments=(Segment("bench", 0, 0, tokens + 1, 1),),
        objects=tuple(objects[: coords // 4]),
    )


@dataclass(frozen=True, eq=False)
class Sides:
    """The forward of each side to its loss, and the tensors that its backward gives gradients to."""

    forward: dict[str, Callable[[], torch.Tensor]]
    leaves: tuple[torch.Tensor, ...]

    def step(self, name: str) -> None:
        """Forward and backward, without leftovers in `.grad`."""
        self.forward[name]().backward()
        for leaf in self.leaves:
            leaf.grad = None


def build_sides(case: Case) -> Sides:
    """Both sides over the same states [1, T + 1, H] and weight [V, H]."""
    torch.manual_seed(0)
    batch = build_batch(case.tokens, case.coords)
    states = torch.randn(1, case.tokens + 1, case.hidden).to(case.dtype).requires_grad_()
    weight = (0.02 * torch.randn(CLASSES, case.hidden)).to(case.dtype).requires_grad_()
    objective = build_objective(Manifest(EVERY_TERM, (ModuleEntry("coord_diag", CoordDiagConfig()),)))
    head = OutputHead(weight, torch.arange(FIRST_COORD, FIRST_COORD + 1000))
    context = objective.context(batch, Provenance.STAGE1)
    normalizers = count_normalizers(context)

    def precision() -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if case.autocast else contextlib.nullcontext()

    def ours() -> torch.Tensor:
        with precision():
            return objective(context, score_hidden(states, head), normalizers).total

    def reference() -> torch.Tensor:
        with precision():
            scores = states[0, :-1] @ weight.T
        return F.cross_entropy(scores.float(), batch.input_ids[0, 1:])

    return Sides(dict(zip(SIDES, (ours, reference), strict=True)), (states, weight))


def measure_times(sides: Sides, names: tuple[str, ...], repeats: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of each side, alternating; other work on the machine stays out of CPU seconds."""
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name in names:
            started, used = time.perf_counter(), time.process_time()
            sides.step(name)
            if turn:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - used)
    return {name: (statistics.median(wall[name]), statistics.median(cpu[name])) for name in names}


def measure_peak(sides: Sides, name: str) -> int:
    """Bytes by which one step raises resident memory; Linux lets a process reset its own high-water mark."""
    sides.step(name)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    sides.step(name)
    return _status("VmHWM") - before


def measure_saved(forward: Callable[[], torch.Tensor]) -> int:
    """Bytes of the tensors that autograd saves for backward, each storage once, leaves left out."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_leaf:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storages.values())


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}: peak memory is measured on Linux only")


def measure(case: Case, repeats: int) -> dict[str, float]:
    """Seconds, megabytes and their ratios for one case."""
    sides = build_sides(case)
    seconds = measure_times(sides, SIDES, repeats)
    row: dict[str, float] = {}
    for name in SIDES:
        row[f"{name}_wall_seconds"], row[f"{name}_cpu_seconds"] = seconds[name]
        row[f"{name}_peak_mb"] = measure_peak(sides, name) / 2**20
        row[f"{name}_saved_mb"] = measure_saved(sides.forward[name]) / 2**20
    for quantity in ("wall_seconds", "cpu_seconds", "peak_mb", "saved_mb"):
        row[f"{quantity}_ratio"] = row[f"objective_{quantity}"] / row[f"cross_entropy_{quantity}"]
    return row


def measure_growth(case: Case, repeats: int) -> dict[int, dict[str, float]]:
    """The objective alone at half, once and twice the tokens, with the ratio to the half as many."""
    rows: dict[int, dict[str, float]] = {}
    for tokens in (case.tokens // 2, case.tokens, 2 * case.tokens):
        sized = replace(case, tokens=tokens, coords=case.coords * tokens // case.tokens)
        sides = build_sides(sized)
        wall, cpu = measure_times(sides, SIDES[:1], repeats)["objective"]
        peak = measure_peak(sides, "objective") / 2**20
        rows[tokens] = {"wall_seconds": wall, "cpu_seconds": cpu, "peak_mb": peak}
        if half := rows.get(tokens // 2):
            rows[tokens] |= {f"{name}_ratio": rows[tokens][name] / half[name] for name in GROWING}
    return rows


def run(cases: tuple[Case, ...] = CASES, repeats: int = 3) -> dict[str, Any]:
    """Print and return the measurements by case, the worst ratios and their bars, and the growth with tokens."""
    rows = {case: measure(case, repeats) for case in cases}
    barred = [row for case, row in rows.items() if case.barred]
    growth = measure_growth(cases[-1] if len(cases) == 1 else cases[1], repeats)
    result: dict[str, Any] = {
        "worst_time_ratio": max(row["cpu_seconds_ratio"] for row in barred),
        "worst_wall_time_ratio": max(row["wall_seconds_ratio"] for row in barred),
        "target_time_ratio": TIME_BAR,
        "worst_memory_ratio": max(row["peak_mb_ratio"] for row in barred),
        "target_memory_ratio": MEMORY_BAR,
        "time_of_twice_the_tokens": max(row["cpu_seconds_ratio"] for row in list(growth.values())[1:]),
        "memory_of_twice_the_tokens": max(row["peak_mb_ratio"] for row in list(growth.values())[1:]),
    }
    console = Console()
    console.print(_comparison(rows), _growth(growth))
    console.print(", ".join(f"{name} {value:.4g}" for name, value in result.items()))
    return result | {"by_case": {case.name: row for case, row in rows.items()}, "by_tokens": growth}


def _comparison(rows: dict[Case, dict[str, float]]) -> Table:
    threads = torch.get_num_threads()
    table = Table(title=f"Objective / cross-entropy / ratio: 1,024 tokens, {CLASSES} classes, {threads} threads")
    for column in ("case", "wall s", "CPU s", "peak MB", "saved MB"):
        table.add_column(column, justify="right")
    for case, row in rows.items():
        cells = []
        for name, digits in (("wall_seconds", 2), ("cpu_seconds", 2), ("peak_mb", 0), ("saved_mb", 0)):
            ours, theirs = (f"{row[f'{side}_{name}']:.{digits}f}" for side in SIDES)
            cells.append(f"{ours} / {theirs} / {row[f'{name}_ratio']:.2f}")
        table.add_row(case.name if case.barred else f"{case.name} (no bar)", *cells)
    return table


def _growth(rows: dict[int, dict[str, float]]) -> Table:
    table = Table(title="The objective alone (ratio to half as many tokens)")
    for column in ("tokens", "wall s", "CPU s", "peak MB"):
        table.add_column(column, justify="right")
    for tokens, row in rows.items():
        cells = [
            f"{row[name]:.2f}" + (f" ({row[f'{name}_ratio']:.2f})" if f"{name}_ratio" in row else "")
            for name in GROWING
        ]
        table.add_row(str(tokens), *cells)
    return table
