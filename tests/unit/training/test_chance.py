"""Where chance comes from: training.seed alone, through named streams, and never the hash seed or the rank."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from coordexp.config import load_config
from coordexp.data.seeds import derive_seed

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

ROOT = Path(__file__).resolve().parents[3]


def drawn() -> list[float]:
    """The next number of each stream."""
    return [random.random(), float(np.random.random()), float(torch.rand(()))]


@pytest.mark.invariant("TRAIN-007")
@pytest.mark.parametrize("seed", [0, 17, 2**31 - 1])
def test_python_numpy_and_torch_are_seeded_each_by_its_own_stream(seed: int) -> None:
    from coordexp.training.chance import seed_everything

    seed_everything(seed)
    found = drawn()
    expected = [
        random.Random(derive_seed(seed, "python")).random(),
        float(np.random.RandomState(derive_seed(seed, "numpy") % 2**32).random()),
        float(torch.rand((), generator=torch.Generator().manual_seed(derive_seed(seed, "torch")))),
    ]
    assert found == expected
    seed_everything(seed)
    assert drawn() == expected
    seed_everything(seed + 1)
    assert not set(drawn()) & set(expected)


@pytest.mark.invariant("TRAIN-007")
def test_a_run_is_seeded_before_its_adapter_is_drawn(stage1_kit: Stage1Kit) -> None:
    from coordexp.training.stage1 import build_stage1

    def adapter(name: str, seed: int) -> torch.Tensor:
        random.seed()
        torch.seed()
        path = stage1_kit.write(name, training={"seed": seed}, tuner={"tuner_type": "lora", "lora_rank": 4})
        trainer = build_stage1(load_config(path))
        weights = {key: value for key, value in trainer.model.named_parameters() if "lora_A" in key}
        return torch.cat([weights[key].detach().flatten() for key in sorted(weights)])

    first, again, other = adapter("drawn", 5), adapter("drawn_again", 5), adapter("drawn_other", 6)
    assert torch.equal(first, again) and first.abs().max() > 0
    assert not torch.equal(first, other)


@pytest.mark.invariant("TRAIN-007")
def test_the_hash_seed_changes_nothing(tmp_path: Path, stage1_kit: Stage1Kit) -> None:
    """Ties and duplicates included: the same report, checksum and packs from processes with other hash seeds."""
    script = tmp_path / "probe.py"
    script.write_text(
        f"""
import json, sys
from coordexp.config import load_config
from coordexp.evaluation.report import evaluate_detections, render_report
from coordexp.evaluation.types import Detection, ImagePrediction, ImageTruth
from coordexp.losses.defaults import resolve_manifest
from coordexp.losses.manifest import checksum
from coordexp.packing.plan import build_plan

names = [f"class {{i}}" for i in range(12)]
truth, found = [], []
for image in range(6):
    objects = tuple(Detection(name, (0.0, 0.0, 10.0 + i % 3, 10.0)) for i, name in enumerate(names))
    truth.append(ImageTruth(f"image {{image}}", 64, 64, objects + objects[:4], split=f"split {{image % 3}}"))
    ties = tuple(Detection(o.desc, o.box, 0.5) for o in objects) + tuple(Detection(o.desc, o.box, 0.5) for o in objects)
    found.append(ImagePrediction(f"image {{image}}", ties))
report = render_report(evaluate_detections(truth, found, score_mode="confidence"))
packs = build_plan([7, 7, 7, 3, 3, 5, 5, 5, 2, 2, 2, 9, 9] * 20, 16).packs
manifest = resolve_manifest(load_config({str(stage1_kit.write("hash_seed"))!r}))
print(json.dumps([report, packs, checksum(manifest)]))
""",
        encoding="utf-8",
    )
    said = []
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=150, check=True
        )
        said.append(done.stdout)
    assert said[0] == said[1] == said[2] and len(json.loads(said[0])) == 3
