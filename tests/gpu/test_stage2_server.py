"""Stage 2 in server mode on two GPUs through scripts/train_stage2.sh, with a real checkpoint (AUDIT-11.2)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.plugins.gpu_runs import (
    CHECKPOINT,
    TIMEOUT,
    check_ab_telemetry,
    check_server_telemetry,
    free_ports,
    run_script,
    write_enlarged_shapes,
    write_leaf,
)

SHIPPED = "configs/stage2_two_channel/smoke/gpu/ab_mixed.yaml"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(TIMEOUT),
    pytest.mark.skipif(
        torch.cuda.device_count() < 2,
        reason="fewer than two NVIDIA GPUs: a rollout server needs one, the learner another",
    ),
    pytest.mark.skipif(
        CHECKPOINT not in os.environ, reason="COORDEXP_GPU_CHECKPOINT names no Qwen3-VL checkpoint with coord tokens"
    ),
]


@pytest.mark.invariant("TRAIN-062")
def test_both_channels_train_on_the_rollouts_of_a_server(
    tmp_path: Path, record_number: Callable[[str, float, str], None]
) -> None:
    data = write_enlarged_shapes(tmp_path / "data", {"train": 64, "val": 8}, 4)
    port, group_port = free_ports(2)
    address = {"base_url": f"http://127.0.0.1:{port}", "group_port": group_port}
    server = {"vllm": {"server": {"servers": [address]}}}
    leaf = write_leaf(tmp_path / "stage2", SHIPPED, os.environ[CHECKPOINT], data, rollout_matching=server)
    # It returns 0 only when the server became ready, took every push, answered the canary and was ended.
    run = run_script("train_stage2.sh", leaf, server_gpus="0", train_gpus="1")
    check_ab_telemetry(run, "ABAB")
    check_server_telemetry(run, "0")
    rolled = [line for line in run.steps if "rollout/samples_total" in line]
    record_number("weight sync, longest", max(line["time/rollout_sync_s"] for line in rolled), "s")
    record_number("log-probability gap", max(line["rollout/logprob_gap_mean"] for line in rolled), "nats")
    tokens = sum(line["rollout/samples_total"] * line["rollout/gen_new_tokens_mean"] for line in rolled)
    seconds = sum(line["time/rollout_generate_s"] for line in rolled)
    record_number("generation speed of the server", tokens / seconds, "tokens/s")
