"""Peak memory of a training process by what lies ready, by the size of a step, and by the size of the validation set.

Each run is a process of its own on a tiny Qwen3-VL and pictures of 512 x 512 pixels (6.3 MB each as vision patches,
0.8 MB as pixels); its high-water mark is compared with that of the smallest run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from rich.console import Console

from coordexp.forward.tiny import SMALLEST, write_tiny_checkpoint

ROOT = Path(__file__).resolve().parent.parent
SIDE = 512
# Trains, and prints the high-water mark of this process, its workers left out, in MiB.
CHILD = """
import logging, resource, sys
logging.disable(logging.WARNING)
from coordexp.config import load_config
from coordexp.training.stage1 import run_stage1
run_stage1(load_config(sys.argv[1]))
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def write_records(path: Path, count: int) -> None:
    """`count` records with three boxes on the one picture beside `path`."""
    boxes = [["<|coord_1|>", "<|coord_2|>", f"<|coord_{k}|>", "<|coord_900|>"] for k in (300, 500, 700)]
    objects = [{"desc": "red circle", "bbox_2d": box} for box in boxes]
    line = json.dumps({"images": ["noise.png"], "width": SIDE, "height": SIDE, "objects": objects})
    path.write_text("\n".join([line] * count) + "\n", encoding="utf-8")


def peak(folder: Path, name: str, **sections: dict[str, Any]) -> float:
    """High-water mark in MiB of a run of one step with these sections."""
    document: dict[str, Any] = {
        "extends": str(ROOT / "configs/stage1/smoke/shapes.yaml"),
        "global_max_length": 1024,
        "model": {"model": str(folder / "checkpoint")},
        "template": {"max_pixels": SIDE * SIDE},
        "data": sections.get("data", {}),
        "training": {
            "output_dir": str(folder / name),
            "logging_dir": str(folder / name),
            "run_name": name,
            "max_steps": 1,
            "packing": False,
            "save_strategy": "no",
            "effective_batch_size": 4,
        }
        | sections.get("training", {}),
        "custom": {"train_jsonl": str(folder / "train.jsonl"), "val_jsonl": None} | sections.get("custom", {}),
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout.rsplit("peak", 1)[1])


def run() -> dict[str, float]:
    """Print and return peaks in MiB, and their ratios."""
    console, found = Console(), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "noise.png")
        write_tiny_checkpoint(folder / "checkpoint", SMALLEST)
        write_records(folder / "train.jsonl", 256)
        for plan, prefetch in ((4, 1), (4, 8), (64, 1), (64, 8)):
            data = {"dataloader_num_workers": 2, "dataloader_prefetch_factor": prefetch}
            key = f"step of {plan}, {prefetch} ahead"
            found[key] = peak(folder, f"plan_{plan}_{prefetch}", data=data, training={"effective_batch_size": plan})
            console.print(f"{key}: {found[key]:.0f} MiB")
        for count in (200, 2000):
            write_records(folder / f"val_{count}.jsonl", count)
            evaluated = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}
            val = {"val_jsonl": str(folder / f"val_{count}.jsonl")}
            key = f"validation of {count}"
            found[key] = peak(folder, f"val_{count}", training=evaluated, custom=val)
            console.print(f"{key}: {found[key]:.0f} MiB")
    ratios = {
        "prefetch x step": found["step of 64, 8 ahead"] / found["step of 4, 1 ahead"],
        "validation": found["validation of 2000"] / found["validation of 200"],
    }
    for key, value in ratios.items():
        console.print(f"{key}: {value:.3f}")
    return found | ratios
