"""The shipped runs with a server, through scripts/train_stage2.sh: they train, and as their HF twins do."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from coordexp.rollout.vllm_server import OBSERVED
from coordexp.spec import check
from coordexp.training.log_check import check_run_log
from tests.ddp.ranks import read_log, train
from tests.plugins.launches import ROOT, write_launch

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

pytestmark = [pytest.mark.server, pytest.mark.timeout(600), pytest.mark.xdist_group("shipped")]
CONFIGS = ROOT / "configs"
TWINS = {
    "stage2_two_channel/smoke/ab_mixed.yaml": "stage2_two_channel/smoke/ab_mixed_hf.yaml",
    "stage2_two_channel/smoke/b_only.yaml": "stage2_two_channel/smoke/b_only_hf.yaml",
    "stage2_rollout_aligned/smoke/server.yaml": "stage2_rollout_aligned/smoke/hf.yaml",
}
TIMED = ("runtime", "_per_second", *OBSERVED)


def sections(kit: Stage1Kit, steps: int) -> dict[str, dict[str, Any]]:
    return {
        "model": {"model": str(ROOT / "fixtures/tiny-qwen3vl")},
        "training": {"max_steps": steps, "eval_steps": steps, "save_steps": steps},
        "custom": {"train_jsonl": str(kit.train), "val_jsonl": str(kit.val)},
    }


def run_with_server(kit: Stage1Kit, folder: Path, shipped: str, steps: int) -> Path:
    """The run's folder, after the launcher has ended well."""
    folder.mkdir()
    config = write_launch(folder, CONFIGS / shipped, **sections(kit, steps))
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/train_stage2.sh")],
        env={**os.environ, "config": str(config), "OMP_NUM_THREADS": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    document = check("stage2-preflight", json.loads(done.stdout.splitlines()[0]))
    assert document["config"] == str(config) and document["rollout_backend"] == "vllm"
    assert check_run_log(folder / "run").problems == ()
    return folder / "run"


def run_alone(kit: Stage1Kit, folder: Path, shipped: str, steps: int) -> Path:
    """The run's folder of the twin that generates by itself."""
    folder.mkdir()
    given = sections(kit, steps)
    own = {"output_dir": str(folder / "run"), "logging_dir": str(folder / "tb"), "add_version": False}
    given["training"] |= own
    (folder / "run.yaml").write_text(yaml.safe_dump({"extends": str(CONFIGS / shipped), **given}), encoding="utf-8")
    return train(folder / "run.yaml", 1)[1]


def check_repeats(lines: list[dict[str, float]], *, guarded: bool) -> None:
    """The guard's two keys, in training and evaluation: of a run whose limits end answers, and of one without."""
    for prefix in ("", "eval_"):
        active, ended, truncated = (
            [line[f"{prefix}rollout/{key}"] for line in lines if f"{prefix}rollout/{key}" in line]
            for key in ("repeat_terminate_active", "repeat_terminate_triggered_sequences", "parse_truncated_rate")
        )
        assert active and set(active) == {float(guarded)} and len(ended) == len(active) == len(truncated)
        assert sum(ended) > 0 if guarded else not any(ended)
        sizes = [line[f"{prefix}rollout/samples_total"] for line in lines if f"{prefix}rollout/samples_total" in line]
        assert all(share * size >= count for share, size, count in zip(truncated, sizes, ended, strict=True))


@pytest.mark.invariant("ROLL-046")
@pytest.mark.invariant("ROLL-036")
@pytest.mark.parametrize("shipped", TWINS, ids=lambda name: Path(name).stem)
def test_a_shipped_run_with_a_server_is_its_twin_without(stage1_kit: Stage1Kit, tmp_path: Path, shipped: str) -> None:
    mixed = "ab_mixed." in shipped
    steps = 4 if mixed else 2
    served = run_with_server(stage1_kit, tmp_path / "served", shipped, steps)
    alone = run_alone(stage1_kit, tmp_path / "alone", TWINS[shipped], steps)
    lines, twins = read_log(served), read_log(alone)
    for line, twin in zip(lines, twins, strict=True):
        one, other = (
            {key: value for key, value in each.items() if "time/" not in key and not key.endswith(TIMED)}
            for each in (line, twin)
        )
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    rolled = [line for line in lines if "rollout/samples_total" in line]
    assert len(rolled) == (1 if mixed else 2)
    for line in rolled:
        assert set(OBSERVED) - {"rollout/canary_gap_max", "time/rollout_sync_s"} <= line.keys()
        assert {"rollout/seed_base", "rollout/parse_truncated_rate", "time/rollout_generate_s"} <= line.keys()
    check_repeats(lines, guarded=not mixed)
    if "two_channel" in shipped:
        last = [line for line in lines if "stage2_ab/b_ratio_realized" in line][-1]
        assert last["stage2_ab/b_ratio_realized"] == (0.25 if mixed else 1.0)
    manifest = check("run-manifest", json.loads((served / "run_manifest.json").read_text(encoding="utf-8")))
    launch = manifest["launch"]
    (liveness,) = launch["rollout_servers"].values()
    flags = launch["server"]["command"]
    assert liveness["command"][-len(flags) + 3 :] == flags[3:], "as passed, by the launcher and by the server"
    assert launch["request_config"]["max_tokens"] == 256 and launch["request_config"]["temperature"] == 0.0
    assert manifest["seeds"]["training"] == 17 and manifest["pipeline_checksum"]
