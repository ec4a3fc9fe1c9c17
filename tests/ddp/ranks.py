"""Trains a configuration in one process or in several, as its users do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from coordexp.training.log_check import check_run_log

ROOT = Path(__file__).resolve().parents[2]


def train(config: Path, ranks: int) -> tuple[list[dict[str, float]], Path]:
    """Train in `ranks` processes; returns the logged steps and the run's folder, which `read_log` reads too.

    One rank is this process, which has imported everything already.
    """
    if ranks == 1:
        from coordexp.entrypoints.train import main

        assert main(["--config", str(config)]) == 0
    else:
        launch(config, ranks)
    folder = config.parent / "run"
    assert check_run_log(folder).problems == ()
    return [line for line in read_log(folder) if "loss/struct_ce" in line], folder


def launch(config: Path, ranks: int) -> None:
    """Train under torchrun; the run says its name and its objective's checksum once."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
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
    manifest = json.loads((config.parent / "run/run_manifest.json").read_text(encoding="utf-8"))
    said = [line for line in done.stderr.splitlines() if f"config: {config}; run_name: {config.parent.name}" in line]
    assert len(said) == 1 and said[0].endswith(manifest["pipeline_checksum"])


def read_log(folder: Path) -> list[dict[str, float]]:
    """Every line that a run logged, of steps and of validations."""
    return [json.loads(line) for line in (folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()]
