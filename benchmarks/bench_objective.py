"""The whole objective, all terms on, against F.cross_entropy over the same hidden states and 152,704 classes.

Forward and backward of 1,024 supervised tokens, 200 of them coord tokens, both sides alternating in one process; memory
is the rise of the resident high-water mark during one step.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
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
from coordexp.losses.specs import BboxGeoConfig, CoordDiagConfig, CoordRegConfig, TokenCEConfig
from coordexp.packing.types import PackedBatch, Segment

CLASSES, FIRST_COORD = 152_704, 151_670
TIME_BAR, MEMORY_BAR = 1.10, 0.5


def build_case(hidden: int, tokens: int, coords: int) -> tuple[PackedBatch, torch.Tensor, torch.Tensor]:
    """A packed row whose every token but the first is supervised; hidden states [1, T + 1, H] and weight [V, H]."""
    torch.manual_seed(0)
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
    batch = PackedBatch(
        input_ids=row,
        labels=torch.where(types == int(TokenType.OTHER), IGNORE_INDEX, ids)[None],
        token_types=types[None],
        subsets=torch.full_like(row, int(TokenSubset.GT)),
        mm_token_type_ids=torch.zeros_like(row),
        position_ids=torch.zeros(4, *row.shape, dtype=torch.int64),
        segments=(Segment("bench", 0, 0, tokens + 1, 1),),
        objects=tuple(objects[: coords // 4]),
    )
    states = torch.randn(1, tokens + 1, hidden).requires_grad_()
    weight = (0.02 * torch.randn(CLASSES, hidden)).requires_grad_()
    return batch, states, weight


def build_steps(hidden: int, tokens: int, coords: int) -> dict[str, Callable[[], None]]:
    """One forward and backward of each side, without leftovers in `.grad`."""
    batch, states, weight = build_case(hidden, tokens, coords)
    coord_reg = CoordRegConfig(
        coord_gate_weight=1.0, text_gate_weight=1.0, soft_ce_weight=1.0, w1_weight=1.0, coord_ce_weight=0.1
    )
    modules = (
        ModuleEntry("token_ce", TokenCEConfig()),
        ModuleEntry("bbox_geo", BboxGeoConfig()),
        ModuleEntry("coord_reg", coord_reg),
    )
    objective = build_objective(Manifest(modules, (ModuleEntry("coord_diag", CoordDiagConfig()),)))
    head = OutputHead(weight, torch.arange(FIRST_COORD, FIRST_COORD + 1000))
    context = objective.context(batch, Provenance.STAGE1)
    normalizers = count_normalizers(context)

    def ours() -> None:
        objective(context, states, head, normalizers).total.backward()

        states.grad = weight.grad = None

    def reference() -> None:
        F.cross_entropy(states[0, :-1] @ weight.T, batch.input_ids[0, 1:]).backward()
        states.grad = weight.grad = None

    return {"objective": ours, "cross_entropy": reference}


def measure_times(hidden: int, tokens: int, coords: int, repeats: int) -> dict[str, float]:
    """Median CPU seconds of each side, alternating; other work on the machine stays out of them."""
    steps = build_steps(hidden, tokens, coords)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if turn:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure_peak(step: Callable[[], None]) -> int:
    """Bytes by which one step raises resident memory; Linux lets a process reset its own high-water mark."""
    step()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}: peak memory is measured on Linux only")


def measure(hidden: int, tokens: int, coords: int, repeats: int) -> dict[str, float]:
    """Seconds, peaks and both ratios for one hidden size."""
    seconds = measure_times(hidden, tokens, coords, repeats)
    steps = build_steps(hidden, tokens, coords)
    peaks = {name: measure_peak(step) for name, step in steps.items()}
    return {
        "objective_cpu_seconds": seconds["objective"],
        "cross_entropy_cpu_seconds": seconds["cross_entropy"],
        "objective_peak_mb": peaks["objective"] / 2**20,
        "cross_entropy_peak_mb": peaks["cross_entropy"] / 2**20,
        "time_ratio": seconds["objective"] / seconds["cross_entropy"],
        "memory_ratio": peaks["objective"] / peaks["cross_entropy"],
    }


def run(
    hiddens: tuple[int, ...] = (128, 1024), tokens: int = 1024, coords: int = 200, repeats: int = 3
) -> dict[str, Any]:
    """Print and return the measurements by hidden size, the worst ratios and their bars."""
    table = Table(title=f"Objective beside cross-entropy: {tokens} tokens, {coords} coords, {CLASSES} classes")
    for column in (
        "hidden",
        "objective",
        "cross-entropy",
        "time ratio",
        "peak",
        "peak of cross-entropy",
        "memory ratio",
    ):
        table.add_column(column, justify="right")
    rows = {hidden: measure(hidden, tokens, coords, repeats) for hidden in hiddens}
    for hidden, row in rows.items():
        table.add_row(
            str(hidden),
            f"{row['objective_cpu_seconds']:.2f} s",
            f"{row['cross_entropy_cpu_seconds']:.2f} s",
            f"{row['time_ratio']:.2f}",
            f"{row['objective_peak_mb']:.0f} MB",
            f"{row['cross_entropy_peak_mb']:.0f} MB",
            f"{row['memory_ratio']:.2f}",
        )
    result: dict[str, Any] = {
        "worst_time_ratio": max(row["time_ratio"] for row in rows.values()),
        "target_time_ratio": TIME_BAR,
        "worst_memory_ratio": max(row["memory_ratio"] for row in rows.values()),
        "target_memory_ratio": MEMORY_BAR,
    }
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name} {value:.4g}" for name, value in result.items()))
    return result | {"by_hidden_size": rows}
