"""Two gloo ranks under DDP against one rank: totals, logged losses and gradients."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from coordexp.forward.head import OutputHead
from coordexp.losses.manifest import Manifest, ModuleEntry
from coordexp.losses.masks import Provenance
from coordexp.losses.normalizers import LossSums, Normalizers, count_normalizers
from coordexp.losses.objective import build_objective
from coordexp.losses.specs.bbox_geo import BboxGeoConfig
from coordexp.losses.specs.coord_diag import CoordDiagConfig
from coordexp.losses.specs.coord_reg import CoordRegConfig
from coordexp.losses.specs.token_ce import TokenCEConfig
from coordexp.losses.vocab import score_hidden
from tests.unit.losses.synthetic import COORD_IDS, HIDDEN, VOCABULARY, collate, gt_sample

MANIFEST = Manifest(
    (
        ModuleEntry("token_ce", TokenCEConfig(desc_ce_weight=2.0)),
        ModuleEntry("bbox_geo", BboxGeoConfig()),
        ModuleEntry("coord_reg", CoordRegConfig(soft_ce_weight=1.0, w1_weight=1.0, coord_gate_weight=1.0)),
    ),
    (ModuleEntry("coord_diag", CoordDiagConfig()),),
)
# Rank 1 gets the sample without objects: its counts are 0 where rank 0's are not.
SHARES = {1: [[0, 1, 2]], 2: [[0, 1], [2]]}
SAMPLES = [(0, (2, 2)), (1, (2, 4)), (2, ())]


class Tied(nn.Module):
    """Embedding, one layer, and a head that is the embedding and is used outside the forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN, dtype=torch.float64)
        self.layer = nn.Linear(HIDDEN, HIDDEN, dtype=torch.float64)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.layer(self.embedding(ids)).tanh()


def step(rank: int, world: int) -> dict[str, object]:
    """One optimizer step of `rank`: DDP averages gradients, so the loss is multiplied by the number of ranks."""
    model = Tied()
    wrapped: nn.Module = DistributedDataParallel(model) if world > 1 else model
    objective = build_objective(MANIFEST)
    batch = collate([gt_sample(*SAMPLES[i]) for i in SHARES[world][rank]])
    context = objective.context(batch, Provenance.STAGE1)
    normalizers = count_normalizers(context)
    if world > 1:
        counts = normalizers.to_tensor()
        dist.all_reduce(counts)
        normalizers = Normalizers.from_tensor(counts)
    head = OutputHead(model.embedding.weight, COORD_IDS)
    output = objective(context, score_hidden(wrapped(batch.input_ids), head), normalizers)
    (world * output.total).backward()
    sums, total = output.sums.to_tensor(), output.total.detach().clone()
    if world > 1:
        dist.all_reduce(sums)
        dist.all_reduce(total)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"total": total, "metrics": LossSums.from_tensor(sums).metrics(), "gradients": gradients}


def run_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(step(rank, world), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.invariant("LOSS-027")
def test_two_ranks_give_the_losses_and_gradients_of_one() -> None:
    whole = step(0, 1)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run_rank, args=(2, folder), nprocs=2)
        ranks = [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(2)]
    for outcome in ranks:
        torch.testing.assert_close(outcome["total"], whole["total"], rtol=1e-12, atol=1e-12)
        assert outcome["metrics"] == pytest.approx(whole["metrics"], rel=1e-10)
        for name, gradient in whole["gradients"].items():
            torch.testing.assert_close(outcome["gradients"][name], gradient, rtol=1e-9, atol=1e-12)
