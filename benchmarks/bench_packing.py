"""Static packing: fill and CPU time of the plan beside first-fit decreasing and the `binpacking` package."""

from __future__ import annotations

import importlib
import importlib.util
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from coordexp.packing.plan import best_fit_decreasing, build_plan, first_in_first_out

if TYPE_CHECKING:
    from collections.abc import Callable

CAP = 8192
TARGET_FILL = 0.995
SIGMAS = (0.3, 0.5, 0.6, 0.8, 1.0)


def lognormal_lengths(count: int, sigma: float, seed: int) -> list[int]:
    """`count` lengths in tokens of mean 1,500, clipped to the cap."""
    draws = np.random.default_rng(seed).lognormal(np.log(1500) - sigma**2 / 2, sigma, count)
    return [int(length) for length in np.clip(draws, 1, CAP)]


def first_fit_decreasing(lengths: list[int], cap: int) -> list[list[int]]:
    """The reference: longest first, each into the first row that takes it. Quadratic, written plainly."""
    rows: list[list[int]] = []
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        row = next((place for place, room in enumerate(rooms) if room >= length), len(rows))
        if row == len(rows):
            rows.append([])
            rooms.append(cap)
        rows[row].append(length)
        rooms[row] -= length
    return rows


def contenders() -> dict[str, Callable[[list[int], int], Any]]:
    """Each takes lengths and the cap and returns rows; `binpacking` only where that package is installed."""
    found: dict[str, Callable[[list[int], int], Any]] = {
        "build_plan": lambda lengths, cap: build_plan(lengths, cap).packs,
        "first fit decreasing": first_fit_decreasing,
        "best fit decreasing": best_fit_decreasing,
        "dataset order": first_in_first_out,
    }
    if importlib.util.find_spec("binpacking") is not None:
        found["binpacking package"] = importlib.import_module("binpacking").to_constant_volume
    return found


def measure(pack: Callable[[list[int], int], Any], lengths: list[int]) -> tuple[float, float]:
    """Fill and seconds of CPU time, which a busy machine does not stretch."""
    started = time.process_time()
    rows = len(pack(lengths, CAP))
    return sum(lengths) / (CAP * rows), time.process_time() - started


def run() -> dict[str, float]:
    """Print fill per spread of lengths and the growth of cost; return the numbers that the targets are about."""
    fills = Table(title="fill of 2,000 lognormal lengths, mean 1,500, cap 8,192 (worst of three seeds)")
    fills.add_column("sigma")
    names = list(contenders())
    for name in [*names, "upper bound"]:
        fills.add_column(name, justify="right")
    worst = dict.fromkeys(names, 1.0)
    spent = dict.fromkeys(names, 0.0)
    for sigma in SIGMAS:
        draws = [lognormal_lengths(2000, sigma, seed) for seed in range(3)]
        bound = min(sum(lengths) / (CAP * -(-sum(lengths) // CAP)) for lengths in draws)
        row = {}
        for name, pack in contenders().items():
            results = [measure(pack, lengths) for lengths in draws]
            row[name] = min(fill for fill, _ in results)
            worst[name] = min(worst[name], row[name])
            spent[name] += sum(seconds for _, seconds in results)
        fills.add_row(f"{sigma}", *(f"{row[name]:.4f}" for name in names), f"{bound:.4f}")
    small, large = (measure(contenders()["build_plan"], lognormal_lengths(n, 0.6, 0))[1] for n in (10_000, 100_000))
    result = {
        "worst_fill": worst["build_plan"],
        "target_fill": TARGET_FILL,
        "worst_fill_first_fit_decreasing": worst["first fit decreasing"],
        "time_over_first_fit_decreasing": spent["build_plan"] / spent["first fit decreasing"],
        "cpu_seconds_for_100000": large,
        "exponent_10000_to_100000": float(np.log10(large / small)),
    }
    console = Console()
    console.print(fills)
    console.print(", ".join(f"{name} {value:.4g}" for name, value in result.items()))
    return result
