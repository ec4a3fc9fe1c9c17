"""Stage 1 on a GPU and nothing else: the 2B shape with random weights, packed rows of 8,192, ten steps in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.plugins.gpu_runs import TIMEOUT, check_stage1_steps
from tests.plugins.random_stage1 import TWO_BILLION, RandomPlan, run_apart

GIB = 2**30
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(TIMEOUT),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]


@pytest.mark.invariant("TRAIN-060")
def test_a_model_of_real_width_trains_in_packed_rows(
    tmp_path: Path, record_number: Callable[[str, float, str], None]
) -> None:
    plan = RandomPlan(TWO_BILLION)
    run = run_apart(tmp_path / "random", plan, "0")
    assert run.device != "cpu" and run.parameters > 2e9 and len(run.steps) == plan.steps
    check_stage1_steps(run.steps, plan.row)
    assert all("loss/geo" in line for line in run.steps)
    record_number("parameters", run.parameters / 1e9, "billion")
    record_number("training speed", run.tokens_per_second, "tokens/s")
    record_number("peak memory of tensors", run.peak_bytes / GIB, "GiB")
    record_number("fill of rows", sum(line["packing/fill_rate"] for line in run.steps) / plan.steps, "1")
