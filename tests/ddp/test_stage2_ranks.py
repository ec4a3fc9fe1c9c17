"""Rollout-aligned training over two ranks: equal to one, plain and under ZeRO-2, and ended when one rank fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file

from coordexp.config import load_config
from coordexp.data.records import read_records
from coordexp.training.order import epoch_order, part_of_step, split_steps
from coordexp.training.types import Shard
from tests.ddp.ranks import ROOT, read_log, train
from tests.plugins.stage2 import EARLY

if TYPE_CHECKING:
    from tests.plugins.stage2 import Stage2Kit

pytestmark = [pytest.mark.ddp, pytest.mark.timeout(900)]
RATE = 3e-5
SETTINGS: dict[str, Any] = {
    "max_steps": -1,
    "num_train_epochs": 2,
    "effective_batch_size": 4,
    "eval_strategy": "epoch",
    "lr_scheduler_type": "constant",
    "lr_scheduler_kwargs": {"min_lr": None},
    "warmup_ratio": 0.0,
    "learning_rate": RATE,
    "vit_lr": RATE,
    "aligner_lr": RATE,
}
ROLLOUTS = {"max_new_tokens": 128, "decode_batch_size": 3, "decoding": {"temperature": 0.8}}
UNLIKE = (
    "time/",
    "train_",
    "eval_runtime",
    "eval_samples",
    "eval_steps",
    "eval_time/",
    "packing/",
    "data/tokens_total",
    "eval_data/tokens_total",
    "eval_packing/",
)
"""Keys that name what ranks share out differently, or time."""
QUANTILES = ("_p90", "_p99")
"""Of a step, the largest of the ranks' own (metrics.yaml): no sum of theirs is the quantile of all."""


def run(
    kit: Stage2Kit, name: str, ranks: int, training: dict[str, Any] | None = None, **sections: Any
) -> tuple[list[dict[str, float]], Path]:
    """The whole log and the folder of a run of four steps over seven records: 4, 3, 4, 3."""
    path = kit.write(
        name,
        row=300,
        model={"model": str(EARLY)},
        training=SETTINGS | (training or {}),
        custom={"train_sample_limit": 7},
        rollout_matching=ROLLOUTS,
        **sections,
    )
    _, folder = train(path, ranks)
    return read_log(folder), folder


def agree(one: list[dict[str, float]], other: list[dict[str, float]], rel: float) -> None:
    """The same numbers under the same keys, line by line."""
    assert len(one) == len(other)
    for before, after in zip(one, other, strict=True):
        keys = [key for key in before if not key.startswith(UNLIKE) and not key.endswith(QUANTILES)]
        wanted = {key: before[key] for key in keys}
        assert {key: after[key] for key in keys} == pytest.approx(wanted, rel=rel, abs=1e-6)


@pytest.mark.invariant("TRAIN-035")
def test_two_ranks_train_on_rollouts_as_one_does(stage2_kit: Stage2Kit) -> None:
    one, alone = run(stage2_kit, "rollouts_1", 1)
    two, pair = run(stage2_kit, "rollouts_2", 2)
    steps = [line for line in two if "loss" in line]
    assert [line["rollout/samples_total"] for line in steps] == [4, 3, 4, 3]
    shares = [[len(part_of_step(units, Shard(rank, 2))[1]) for units in split_steps(range(7), 4)] for rank in (0, 1)]
    assert shares == [[2, 1], [2, 2]], "ranks have different numbers of records"
    assert any(line["packing/packs_total"] % 2 for line in steps), "ranks have different numbers of packs"
    assert sum(line["rollout/matched_total"] for line in steps) > 0 < sum(line["rollout/fp_total"] for line in steps)
    agree(one, two, rel=1e-5)
    assert len([line for line in two if "eval_rollout/mAP" in line]) == 2
    weights, expected = (load_file(folder / "final/model.safetensors") for folder in (pair, alone))
    start = load_file(EARLY / "model.safetensors")
    moved = max(float((weight - start[name]).abs().max()) for name, weight in expected.items() if name in start)
    assert moved > RATE
    for name, weight in expected.items():
        assert float((weight - weights[name]).abs().max()) < 1e-5, name

    # Later steps draw with weights that differ in their last digits, where an answer may differ in a token.
    first = {"max_steps": 1, "eval_strategy": "no", "metric_for_best_model": None, "greater_is_better": None}
    zero2 = {"enabled": True, "config": "zero2"}
    (sharded, *_), _ = run(stage2_kit, "rollouts_zero2", 2, training=first, deepspeed=zero2)
    agree(two[:1], [sharded], rel=1e-5)


@pytest.mark.invariant("TRAIN-035")
def test_a_rank_that_fails_ends_the_run_with_its_message(stage2_kit: Stage2Kit, tmp_path: Path) -> None:
    source = stage2_kit.stage1.train.parent
    shutil.copytree(source, tmp_path / "train")
    jsonl = tmp_path / "train" / stage2_kit.stage1.train.name
    path = stage2_kit.write("fails", model={"model": str(EARLY)}, training={"effective_batch_size": 4},
                            custom={"train_jsonl": str(jsonl)}, rollout_matching=ROLLOUTS)  # fmt: skip
    records = read_records(jsonl)
    order = epoch_order(len(records), load_config(path).training.seed, 0)
    broken = records[order[3]]
    assert order[3] in part_of_step(order[:4], Shard(1, 2))[1], "the second rank's record"
    picture = tmp_path / "train" / broken.images[0]
    # Its head is whole, so that it is found when it is decoded, and by the rank that decodes it.
    picture.write_bytes(picture.read_bytes()[:-40])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "coordexp.entrypoints.train", "--config", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode != 0 and time.monotonic() - started < 240
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and broken.source in told[0]
