"""`python -m coordexp.entrypoints.train`: what it checks before it loads anything heavy, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordexp.config import ConfigError, load_config
from coordexp.losses.defaults import resolve_manifest
from coordexp.losses.manifest import checksum, render_canonical

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

ROOT = Path(__file__).resolve().parents[3]


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coordexp.entrypoints.train", *arguments],
        cwd=cwd,
        text=True,
        capture_output=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        timeout=120,
    )


@pytest.mark.invariant("LOSS-030")
@pytest.mark.invariant("TRAIN-012")
def test_a_dry_run_checks_the_data_and_writes_the_resolved_config(stage1_kit: Stage1Kit, tmp_path: Path) -> None:
    path = stage1_kit.write("dry")
    done = command("--config", str(path), "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = path.parent / "run/resolved_config.json"
    assert json.loads(written.read_text(encoding="utf-8"))["training"]["run_name"] == "dry"
    assert load_config(written) == load_config(path)
    assert not (path.parent / "run/run_manifest.json").exists()
    manifest = resolve_manifest(load_config(path))
    assert f"config: {path}; run_name: dry; seed: 17; objective: token_ce x1 AB" in done.stderr
    assert f"; {checksum(manifest)}\n" in done.stderr
    assert f"resolved pipeline: {render_canonical(manifest)}\n" in done.stderr


@pytest.mark.invariant("TRAIN-012")
def test_bad_records_stop_the_run_before_a_model_is_looked_for(stage1_kit: Stage1Kit, tmp_path: Path) -> None:
    lines = stage1_kit.train.read_text(encoding="utf-8").splitlines()
    bad = stage1_kit.train.parent / "bad.jsonl"
    bad.write_text(
        "\n".join([lines[0], lines[1].replace('"desc"', '"name"', 1), lines[2].replace("images/", "lost/", 1)]) + "\n"
    )
    path = stage1_kit.write("bad_data", custom={"train_jsonl": str(bad)}, model={"model": "no/such/model"})
    for extra in ((), ("--dry-run",)):
        done = command("--config", str(path), *extra, cwd=tmp_path)
        assert done.returncode == 1
        assert "bad.jsonl:2" in done.stderr and "bad.jsonl:3" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_wrong_key_is_named_with_its_line(stage1_kit: Stage1Kit, tmp_path: Path) -> None:
    path = stage1_kit.write("wrong", training={"learning_rat": 1e-3})
    done = command("--config", str(path), cwd=tmp_path)
    assert done.returncode == 1
    assert "training.learning_rat" in done.stderr and "config.yaml:" in done.stderr and "Traceback" not in done.stderr


STAGE2 = ("stage2_two_channel/smoke/ab_mixed.yaml", "stage2_rollout_aligned/smoke/minimal_hf.yaml")


@pytest.mark.invariant("TRAIN-014")
@pytest.mark.parametrize("name", STAGE2)
@pytest.mark.parametrize("extra", [(), ("--dry-run",)], ids=["run", "dry"])
def test_the_command_refuses_another_trainers_configuration(name: str, extra: tuple[str, ...], tmp_path: Path) -> None:
    done = command("--config", str(ROOT / "configs" / name), *extra, cwd=tmp_path)
    assert done.returncode == 1
    variant = name.split("/")[0]
    assert f"custom.trainer_variant: this command trains stage1, and the configuration is one for {variant}" in (
        done.stderr
    )
    assert "base.yaml:" in done.stderr and "jsonl" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.invariant("TRAIN-014")
@pytest.mark.parametrize("name", STAGE2)
def test_run_stage1_refuses_another_trainers_configuration(name: str) -> None:
    from coordexp.training.stage1 import run_stage1

    with pytest.raises(ConfigError, match=r"trainer_variant: this command trains stage1"):
        run_stage1(load_config(ROOT / "configs" / name))
