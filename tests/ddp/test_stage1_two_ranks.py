"""Two gloo ranks train as one does: same samples per step, same losses, same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

pytestmark = [pytest.mark.ddp, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = (
    "loss",
    "grad_norm",
    "loss/struct_ce",
    "loss/desc_ce",
    "loss/coord_reg",
    "loss/geo",
    "coord_diag/stage1/p_gt_mean",
)


def train(config: Path, ranks: int) -> tuple[list[dict[str, float]], Path]:
    """Train in `ranks` processes; returns the logged steps and the run's folder."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "coordexp.entrypoints.train", "--config", str(config)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=config.parent,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = config.parent / "run"
    manifest = json.loads((folder / "run_manifest.json").read_text(encoding="utf-8"))
    said = [line for line in done.stderr.splitlines() if f"config: {config}; run_name: {config.parent.name}" in line]
    assert len(said) == 1 and said[0].endswith(manifest["pipeline_checksum"])
    lines = [json.loads(line) for line in (folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "loss/struct_ce" in line], folder


@pytest.mark.invariant("LOSS-030")
@pytest.mark.invariant("TRAIN-004")
def test_two_ranks_give_the_losses_and_the_weights_of_one(stage1_kit: Stage1Kit) -> None:
    # Five micro-batches in windows of four: the last window is partial, and the second rank gets a filler in it.
    settings = {"max_steps": 3, "effective_batch_size": 2, "save_strategy": "no"}
    alone, one = train(stage1_kit.write("one_rank", training=settings), 1)
    shared, two = train(stage1_kit.write("two_ranks", training=settings), 2)
    assert len(alone) == len(shared) == 3
    for before, after in zip(alone, shared, strict=True):
        assert [after[key] for key in COMPONENTS] == pytest.approx([before[key] for key in COMPONENTS], rel=2e-4)
    first, second = (load_file(folder / "final/model.safetensors") for folder in (one, two))
    for name, weight in first.items():
        assert float((weight - second[name]).abs().max()) < 2e-4, name
