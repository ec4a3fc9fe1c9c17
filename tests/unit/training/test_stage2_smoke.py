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
from coordexp.training.log_check import check_run_log

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = {
    "stage2_rollout_aligned": "configs/stage2_rollout_aligned/smoke/hf.yaml",
    "stage2_two_channel": "configs/stage2_two_channel/smoke/b_only_hf.yaml",
}


def train(kit: Stage1Kit, folder: Path, shipped: str, steps: int = 2) -> tuple[list[dict[str, float]], Path]:
    """The log and the folder of a few steps of a shipped configuration; only paths and lengths are others."""
    training = {
        "output_dir": str(folder / "run"),
        "logging_dir": str(folder / "tb"),
        "add_version": False,
        "max_steps": steps,
        "eval_steps": steps,
        "save_steps": steps,
    }
    custom = {"train_jsonl": str(kit.train), "val_jsonl": str(kit.val)}
    document = {"extends": str(ROOT / shipped), "training": training, "custom": custom}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    environment = {**os.environ, "config": str(folder / "config.yaml"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/train.sh")], env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and "parse " in done.stderr
    assert check_run_log(folder / "run").problems == ()
    lines = (folder / "run/logging.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], folder / "run"


@pytest.mark.invariant("ART-042")
@pytest.mark.invariant("TRAIN-031")
@pytest.mark.invariant("TRAIN-032")
def test_both_trainers_of_stage_2_train_on_rollouts_alike(stage1_kit: Stage1Kit, tmp_path: Path) -> None:
    """With b_ratio 1 the two trainers are one: the same steps, evaluations and numbers, under the same keys."""
    runs = {variant: train(stage1_kit, tmp_path / variant, shipped) for variant, shipped in CONFIGS.items()}
    (aligned, folder), (mixed, _) = runs.values()
    # Names in ground truth have a weight in two-channel training alone, and the validation loss is on ground truth.
    own = {"train_runtime", "eval_runtime", "eval_loss"}
    for one, other in zip(aligned, mixed, strict=True):
        assert one.keys() == other.keys() - {"stage2_ab/b_ratio_realized"}
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


@pytest.mark.invariant("TRAIN-036")
@pytest.mark.invariant("TRAIN-037")
@pytest.mark.parametrize(("leaf", "kinds"), [("a_only", "AA"), ("ab_mixed_hf", "AAAB"), ("ab_mixed_st_hf", "AAAB")])
def test_channel_a_trains_as_shipped(stage1_kit: Stage1Kit, tmp_path: Path, leaf: str, kinds: str) -> None:
    """Alone and with Channel B, with the straight-through bridge too; evaluated on answers of its own."""
    shipped = f"configs/stage2_two_channel/smoke/{leaf}.yaml"
    log, folder = train(stage1_kit, tmp_path / "run", shipped, len(kinds))
    steps = [line for line in log if "loss" in line]
    assert "".join("B" if "rollout/samples_total" in line else "A" for line in steps) == kinds
    assert steps[-1]["stage2_ab/b_ratio_realized"] == kinds.count("B") / len(kinds)
    for line, kind in zip(steps, kinds, strict=True):
        assert ("loss/A1/struct_ce" in line) == ("coord_diag/A2/expected_bin_mae" in line) == (kind == "A")
    (evaluation,) = [line for line in log if "eval_loss" in line]
    assert evaluation["eval_rollout/f1"] > 0 and (folder / "final/model.safetensors").is_file()
