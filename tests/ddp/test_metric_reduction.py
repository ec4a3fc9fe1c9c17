"""Metrics over two real gloo ranks equal those of one process that saw everything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from coordexp.metrics.accumulator import MetricAccumulator, reduce_over_ranks

OBSERVED = [[(2.0, 1.0), (4.0, 3.0)], [(6.0, 4.0)]]


def gather(rank_observations, rank: int) -> MetricAccumulator:
    gathered = MetricAccumulator()
    for value, weight in rank_observations:
        gathered.add_ratio("loss/struct_ce", value * weight, weight)
        gathered.add("data/samples_total", 1)
        gathered.add("time/step_s", value)
    if rank == 1:
        gathered.add("optim/grad_norm", 5.0)
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
        {"loss/struct_ce": (2 + 12 + 24) / 8, "data/samples_total": 3, "time/step_s": 6.0, "optim/grad_norm": 5.0}
    )


def test_one_process_reduces_without_a_collective():
    assert reduce_over_ranks(gather(OBSERVED[0], 0))["loss/struct_ce"] == pytest.approx(14 / 4)
