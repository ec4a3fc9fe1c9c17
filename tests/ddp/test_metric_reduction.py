"""Metrics over two real gloo ranks equal those of one process that saw everything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from coordexp.losses.masks import Provenance
from coordexp.losses.objective import build_objective
from coordexp.metrics.accumulator import MetricAccumulator, reduce_over_ranks
from coordexp.training.metrics import WindowMetrics
from tests.unit.losses.synthetic import everything_on, run_on

OBSERVED = [[(2.0, 1.0), (4.0, 3.0)], [(6.0, 4.0)]]


def gather(rank_observations, rank: int) -> MetricAccumulator:
    gathered = MetricAccumulator()
    for value, weight in rank_observations:
        gathered.add_ratio("loss/struct_ce", value * weight, weight)
        gathered.add("data/samples_total", 1)
        gathered.add("time/step_s", value)
    if rank == 1:
        gathered.add("rollout/mAP", 5.0)
    return gathered


def run_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    reduced = reduce_over_ranks(gather(OBSERVED[rank], rank))
    Path(folder, f"{rank}.json").write_text(json.dumps(reduced))
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.invariant("ART-006")
def test_two_ranks_reduce_to_what_one_process_sees(tmp_path):
    mp.start_processes(run_rank, args=(str(tmp_path),), nprocs=2, start_method="fork")
    reduced = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert reduced[0] == reduced[1]
    assert reduced[0] == pytest.approx(
        {"loss/struct_ce": (2 + 12 + 24) / 8, "data/samples_total": 3, "time/step_s": 6.0, "rollout/mAP": 5.0}
    )


def test_one_process_reduces_without_a_collective():
    assert reduce_over_ranks(gather(OBSERVED[0], 0))["loss/struct_ce"] == pytest.approx(14 / 4)


RATES = {0: (3.0, 4.0), 1: (1.0, 12.0)}
COLLECTIVES = ("all_reduce", "all_gather_object", "all_gather", "broadcast", "barrier", "reduce_scatter")


def rank_window(rank: int) -> WindowMetrics:
    """Rank 1 has neither losses nor diagnostics, but a gauge of its own; both have rates and quantiles."""
    window, gathered = WindowMetrics(), MetricAccumulator()
    if rank == 0:
        window.add(run_on(build_objective(everything_on()), Provenance.B))
    gathered.add_ratio("rollout/parse_truncated_rate", *RATES[rank])
    gathered.add("rollout/gen_new_tokens_p99", (120.0, 90.0)[rank])
    gathered.add("rollout/repeat_terminate_active", float(rank == 1))
    gathered.add("time/rollout_generate_s", (1.0, 2.5)[rank])
    if rank == 1:
        gathered.add("rollout/mAP", 0.5)
        gathered.add("rollout/_helper", 2.0)
    window.merge(gathered.state())
    return window


def run_window(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    called: list[str] = []

    def counting(name: str) -> Callable[..., Any]:
        real = getattr(dist, name)

        def call(*arguments: Any, **options: Any) -> Any:
            called.append(name)
            return real(*arguments, **options)

        return call

    for name in COLLECTIVES:
        setattr(dist, name, counting(name))
    first = rank_window(rank).reduce(torch.device("cpu"))
    # A window in which one rank has seen nothing at all.
    second = (rank_window(0) if rank == 0 else WindowMetrics()).reduce(torch.device("cpu"))
    Path(folder, f"{rank}.json").write_text(json.dumps([first, second, called]))
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.invariant("ART-044")
def test_ranks_with_different_keys_meet_alike_and_log_the_same(tmp_path):
    mp.start_processes(run_window, args=(str(tmp_path),), nprocs=2, start_method="fork")
    (first, second, called), other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert other == [first, second, called]
    assert called == ["all_reduce", "all_gather_object"] * 2
    alone = rank_window(0).reduce(torch.device("cpu"))
    assert second == pytest.approx(alone)
    shared = {
        "rollout/parse_truncated_rate": 4 / 16,
        "rollout/gen_new_tokens_p99": 120.0,
        "rollout/repeat_terminate_active": 1.0,
        "time/rollout_generate_s": 2.5,
        "rollout/mAP": 0.5,
    }
    assert first == pytest.approx(alone | shared)
    assert any(key.startswith("loss/B/") for key in first) and any(key.startswith("coord_diag/B/") for key in first)
