"""Each run that is shipped for stage 2 passes a dry run once its checkpoint and its records are where it says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordexp.config import load_config
from coordexp.training.dry_run import dry_run

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

ROOT = Path(__file__).resolve().parents[3]
TINY = ROOT / "fixtures/tiny-qwen3vl"
SHIPPED = (
    *sorted((ROOT / "configs").glob("**/prod/*.yaml")),
    *(path for path in sorted((ROOT / "configs").glob("**/smoke/*.yaml")) if path.parent.parent.name != "stage1"),
)


@pytest.mark.invariant("CONFIG-020")
@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_a_shipped_run_passes_a_dry_run_with_its_checkpoint_and_records(
    shipped: Path, stage1_kit: Stage1Kit, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").touch()
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    config = load_config(tmp_path / shipped.relative_to(ROOT))
    checkpoint = tmp_path / config.model.model
    checkpoint.parent.mkdir(parents=True)
    checkpoint.symlink_to(TINY)
    for written, cooked in ((config.custom.train_jsonl, stage1_kit.train), (config.custom.val_jsonl, stage1_kit.val)):
        if written is None:
            continue
        place = tmp_path / written
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(cooked.parent / "images", place.parent / cooked.parent.name)
        text = cooked.read_text(encoding="utf-8").replace('"images/', f'"{cooked.parent.name}/')
        place.write_text(text, encoding="utf-8")
    counts, resolved, _, *told = dry_run(config)
    assert counts == "train: 14 records" + ("" if config.custom.val_jsonl is None else ", val: 3 records")
    assert resolved == f"resolved config: {tmp_path / config.training.output_dir / 'resolved_config.json'}"
    refused = [line for line in told if line.startswith("not trained by this version")]
    assert not refused, "every shipped run asks for what this version trains"


@pytest.mark.invariant("CONFIG-020")
def test_runs_of_both_trainers_are_found() -> None:
    names = {str(path.relative_to(ROOT / "configs")) for path in SHIPPED}
    assert {f"stage2_two_channel/prod/{name}.yaml" for name in ("a_only", "b_only", "ab_mixed")} < names
    on_cpu = ("a_only", "ab_mixed", "b_only", "ab_mixed_hf", "ab_mixed_st_hf", "b_only_hf")
    assert {
        "stage2_rollout_aligned/smoke/hf.yaml",
        "stage2_rollout_aligned/smoke/server.yaml",
        *(f"stage2_two_channel/smoke/{name}.yaml" for name in on_cpu),
    } < names
