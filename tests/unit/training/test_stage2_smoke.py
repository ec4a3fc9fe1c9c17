"""The shipped smoke configurations of stage 2 with the HF backend, through scripts/train.sh, on a few records."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from coordexp.spec import check

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = {
    "stage2_rollout_aligned": "configs/stage2_rollout_aligned/smoke/hf.yaml",
    "stage2_two_channel": "configs/stage2_two_channel/smoke/b_only_hf.yaml",
}


def train(kit: Stage1Kit, folder: Path, variant: str) -> tuple[list[dict[str, float]], Path]:
    """The log and the folder of two steps of the shipped configuration; only paths and lengths are others."""
    training = {
        "output_dir": str(folder / "run"),
        "logging_dir": str(folder / "tb"),
        "add_version": False,
        "max_steps": 2,
        "eval_steps": 2,
        "save_steps": 2,
    }
    custom = {"train_jsonl": str(kit.train), "val_jsonl": str(kit.val)}
    document = {"extends": str(ROOT / CONFIGS[variant]), "training": training, "custom": custom}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    environment = {**os.environ, "config": str(folder / "config.yaml"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/train.sh")], env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and "parse " in done.stderr
    lines = (folder / "run/logging.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], folder / "run"


@pytest.mark.invariant("TRAIN-031")
@pytest.mark.invariant("TRAIN-032")
def test_both_trainers_of_stage_2_train_on_rollouts_alike(stage1_kit: Stage1Kit, tmp_path: Path) -> None:
    """With b_ratio 1 the two trainers are one: the same steps, evaluations and numbers, under the same keys."""
    runs = {variant: train(stage1_kit, tmp_path / variant, variant) for variant in CONFIGS}
    (aligned, folder), (mixed, _) = runs.values()
    # Names in ground truth have a weight in two-channel training alone, and the validation loss is on ground truth.
    own = {"train_runtime", "eval_runtime", "eval_loss"}
    for one, other in zip(aligned, mixed, strict=True):
        assert one.keys() == other.keys()
        keys = [key for key in one if "time/" not in key and key not in own and not key.endswith("_per_second")]
        assert {key: other[key] for key in keys} == pytest.approx({key: one[key] for key in keys})
    steps = [line for line in aligned if "loss" in line]
    assert [line["rollout/samples_total"] for line in steps] == [8, 6], "14 records, of which a step takes 8"
    assert sum(line["rollout/matched_total"] for line in steps) > 0
    (evaluation,) = [line for line in aligned if "eval_loss" in line]
    assert 0.0 <= evaluation["eval_rollout/mAP"] <= 1.0 and evaluation["eval_rollout/f1"] > 0
    for variant, (_, run) in runs.items():
        manifest = json.loads((run / "run_manifest.json").read_text(encoding="utf-8"))
        check("run-manifest", manifest)
        assert manifest["pipeline"]["extra"]["variant"] == variant and manifest["pipeline_checksum"]
    assert (folder / "final/model.safetensors").is_file()
