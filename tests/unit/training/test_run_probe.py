"""A run whose attention no CPU test proves asks it before its first step."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from coordexp.spec import contracts_root

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

ROOT = Path(__file__).resolve().parents[3]
# Attends under the name `eager` as an implementation that knows no packing does, and trains.
LEAKY = """
import sys
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

def causal_only(module, query, key, value, attention_mask, **kwargs):
    return sdpa_attention_forward(module, query, key, value, None, **kwargs)

if sys.argv.pop(1) == "leaky":
    from transformers.models.qwen3_vl import modeling_qwen3_vl
    modeling_qwen3_vl.eager_attention_forward = causal_only
from coordexp.entrypoints.train import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.invariant("FWD-010")
@pytest.mark.parametrize(
    ("proven", "attention", "stopped"),
    [("gpu-test", "leaky", True), ("gpu-test", "sound", False), ("cpu-test", "leaky", False)],
)
def test_a_run_probes_what_only_a_gpu_test_proves(
    stage1_kit: Stage1Kit, tmp_path: Path, proven: str, attention: str, stopped: bool
) -> None:
    contracts = tmp_path / "contracts"
    shutil.copytree(contracts_root(), contracts)
    table = contracts / "packing/backends.yaml"
    rows = yaml.safe_load(table.read_text(encoding="utf-8"))
    rows["backends"]["eager"]["proven"] = proven
    table.write_text(yaml.safe_dump(rows), encoding="utf-8")
    training = {"max_steps": 1, "save_strategy": "no"}
    path = stage1_kit.write(f"probe_{proven}_{attention}", model={"attn_impl": "eager"}, training=training)
    (tmp_path / "run.py").write_text(LEAKY, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COORDEXP_CONTRACTS_ROOT": str(contracts)}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), attention, "--config", str(path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert (done.returncode == 1) == stopped, done.stderr[-2000:]
    assert ("packed samples see each other" in done.stderr) == stopped
    assert (path.parent / "run/final").exists() != stopped, "a leak is found before the first step"
