"""Stage 1 that needs no checkpoint: a Qwen3-VL of a given width with random weights, drawn shapes, a few packed steps.

In, a folder and a plan; out, the run's log, how many parameters it has, and what it measured. The gpu tier runs it with
the real 2B shape, the contracts tier the same function with a small one. It runs in a process of its own
(`python -m tests.plugins.random_stage1`), so that it sees one device and leaves nothing on it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.plugins.gpu_runs import ROOT, SECONDS, write_enlarged_shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration

SHIPPED = ROOT / "configs/stage1/smoke/gpu/random.yaml"


@dataclass(frozen=True)
class Shape:
    """Sizes of both towers; `sections` are the mRoPE sections, half of `head_dim` in all."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_dim: int
    sections: tuple[int, int, int]
    vision_hidden: int
    vision_layers: int
    vision_intermediate: int
    vision_heads: int
    vision_positions: int
    deepstack: tuple[int, ...]


TWO_BILLION = Shape(2048, 28, 6144, 16, 8, 128, (24, 20, 20), 1024, 24, 4096, 16, 2304, (5, 11, 17))
SMALL = Shape(64, 2, 128, 2, 1, 32, (6, 5, 5), 64, 2, 128, 2, 256, (0, 1))


@dataclass(frozen=True)
class RandomPlan:
    """What to build and train: `enlarge` multiplies the drawn images' sides, `overrides` are sections of the config."""

    shape: Shape
    samples: int = 200
    enlarge: int = 4
    steps: int = 10
    row: int = 8192
    dtype: str = "bfloat16"
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class RandomRun:
    """The log lines, the number of parameters, the largest memory held by tensors (0 on a CPU), the device."""

    log: tuple[dict[str, float], ...]
    parameters: int
    peak_bytes: int
    device: str

    @property
    def steps(self) -> list[dict[str, float]]:
        """Log lines of training steps."""
        return [line for line in self.log if "loss" in line]

    @property
    def tokens_per_second(self) -> float:
        """Over the steps after the first two, which choose kernels."""
        lines = self.steps[min(2, len(self.steps) - 1) :]
        return sum(line["data/tokens_total"] for line in lines) / sum(line["time/step_s"] for line in lines)


def run_apart(root: Path, plan: RandomPlan, visible: str) -> RandomRun:
    """`run_random_stage1` in a process of its own that sees the devices of `visible`; raises with its last lines."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "plan.json").write_text(json.dumps(asdict(plan)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.plugins.random_stage1", str(root)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": visible},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    content = json.loads((root / "outcome.json").read_text(encoding="utf-8"))
    return RandomRun(tuple(content["log"]), content["parameters"], content["peak_bytes"], content["device"])


def run_random_stage1(root: Path, plan: RandomPlan) -> RandomRun:
    """Build the checkpoint and the records below `root`, train, and measure."""
    import torch

    from coordexp.config import load_config
    from coordexp.training.stage1 import run_stage1

    data = write_enlarged_shapes(root / "data", {"train": plan.samples, "val": 4}, plan.enlarge)
    parameters = write_random_checkpoint(root / "checkpoint", plan)
    config = load_config(_write_config(root, plan, data))
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    outcome = run_stage1(config)
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    return RandomRun(outcome.log_history, parameters, peak, torch.cuda.get_device_name() if on_gpu else "cpu")


def build_random_model(shape: Shape, tokenizer: PreTrainedTokenizerBase) -> Qwen3VLForConditionalGeneration:
    """Random weights of the shape, for the tokenizer's vocabulary, on torch's default device, in its default type."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    from coordexp.forward.tiny import build_tiny_config

    document = build_tiny_config(tokenizer).to_dict()
    document["text_config"] |= {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 65536,
    }
    document["text_config"]["rope_parameters"] |= {"mrope_section": list(shape.sections)}
    document["vision_config"] |= {
        "hidden_size": shape.vision_hidden,
        "depth": shape.vision_layers,
        "intermediate_size": shape.vision_intermediate,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.hidden,
        "num_position_embeddings": shape.vision_positions,
        "deepstack_visual_indexes": list(shape.deepstack),
    }
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_dict(document))


def write_random_checkpoint(folder: Path, plan: RandomPlan) -> int:
    """Random weights of the plan's shape with the real vocabulary; returns the number of parameters."""
    import torch

    from coordexp.encode.processor import build_processor
    from coordexp.encode.vocabulary import build_real_tokenizer

    tokenizer = build_real_tokenizer()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(17)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, plan.dtype))
    try:
        with torch.device(device):
            model = build_random_model(plan.shape, tokenizer)
    finally:
        torch.set_default_dtype(usual)
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def _write_config(root: Path, plan: RandomPlan, data: dict[str, Path]) -> Path:
    sections: dict[str, dict[str, Any]] = {
        "model": {"model": str(root / "checkpoint")},
        "training": {
            "output_dir": str(root / "run"),
            "logging_dir": str(root / "tb"),
            "add_version": False,
            "max_steps": plan.steps,
        },
        "custom": {"train_jsonl": str(data["train"]), "val_jsonl": str(data["val"])},
    }
    merged = {
        key: sections.get(key, {}) | plan.overrides.get(key, {}) for key in dict.fromkeys([*sections, *plan.overrides])
    }
    path = root / "config.yaml"
    document = {"extends": str(SHIPPED), "global_max_length": plan.row, **merged}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the plan below the folder, run it, and write the outcome beside it."""
    parser = argparse.ArgumentParser(description="Train a model of random weights as <folder>/plan.json says.")
    parser.add_argument("folder", type=Path)
    root = parser.parse_args(arguments).folder
    content = json.loads((root / "plan.json").read_text(encoding="utf-8"))
    sizes = {key: tuple(value) if isinstance(value, list) else value for key, value in content["shape"].items()}
    outcome = run_random_stage1(root, RandomPlan(**content | {"shape": Shape(**sizes)}))
    (root / "outcome.json").write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
