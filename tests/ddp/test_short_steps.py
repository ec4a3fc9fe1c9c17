"""A last step with fewer packs than ranks want: fillers, unequal boxes, and sums over counts counted by hand."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from coordexp.config import load_config
from coordexp.packing.plan import build_plan
from coordexp.training.order import epoch_order, share_of_step, split_steps
from coordexp.training.types import Shard
from tests.ddp.ranks import train
from tests.unit.training.by_hand import HandCount

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

pytestmark = [pytest.mark.ddp, pytest.mark.timeout(900)]
PER_STEP = 4
RATE = 1e-3
CLOSE = 1e-4
"""A tenth of what the first update moves a weight by."""
SETTINGS = {
    "max_steps": -1,
    "num_train_epochs": 1,
    "effective_batch_size": PER_STEP,
    "save_strategy": "no",
    "lr_scheduler_type": "constant",
    "lr_scheduler_kwargs": {"min_lr": None},
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "learning_rate": RATE,
    "vit_lr": RATE,
    "aligner_lr": RATE,
    "max_grad_norm": 0.5,
}


@pytest.mark.invariant("TRAIN-002")
@pytest.mark.invariant("TRAIN-004")
@pytest.mark.invariant("TRAIN-016")
@pytest.mark.parametrize("deepspeed", [{}, {"enabled": True, "config": "zero2"}], ids=["ddp", "zero2"])
def test_a_short_last_step_over_two_ranks_is_sums_over_counts(
    stage1_kit: Stage1Kit, deepspeed: dict[str, object]
) -> None:
    """Plain, and under DeepSpeed, which reduces and steps in the last backward alone."""
    path = stage1_kit.write(f"short_steps_{len(deepspeed)}", row=280, training=SETTINGS, deepspeed=deepspeed)
    config = load_config(path)
    hand = HandCount(config, stage1_kit.checkpoint, stage1_kit.train)
    plan = build_plan([hand.encoder.length(record) for record in hand.records], 280)
    order = [plan.packs[i] for i in epoch_order(len(plan.packs), config.training.seed, 0)]
    planned = split_steps(order, PER_STEP)
    shares = [share_of_step(planned[-1], 1, Shard(rank, 2)) for rank in range(2)]
    boxes = [sum(len(hand.records[i].objects) for i in chain.from_iterable(packs for (packs,) in s)) for s in shares]
    assert len(plan.packs) % PER_STEP, "the last step is short"
    assert len(shares[0]) != len(shares[1]), "a rank needs a filler"
    assert boxes[0] != boxes[1], "ranks count different numbers of boxes"

    lines, folder = train(path, 2)
    assert len(lines) == len(planned) == 2
    optimizer = torch.optim.AdamW(hand.model.parameters(), lr=RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    for line, packs in zip(lines, planned, strict=True):
        reference = hand.step(list(chain.from_iterable(packs)))
        total = reference.total()
        optimizer.zero_grad()
        total.backward()
        norm = hand.gradient_norm()
        assert line["loss"] == pytest.approx(float(total.detach()), rel=1e-5)
        assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)
        counted = reference.components()
        logged = {key.removeprefix("loss/"): value for key, value in line.items() if key.startswith("loss/")}
        assert {"struct_ce", "desc_ce", "coord_reg", "coord_reg/soft_ce", "geo/smoothl1"} <= logged.keys()
        for name, value in logged.items():
            assert value == pytest.approx(float(counted[name].detach()), rel=1e-5, abs=1e-7), name
        torch.nn.utils.clip_grad_norm_(hand.model.parameters(), 0.5)
        assert norm > 0.5, "clipping takes part"
        optimizer.step()
    tokens = sum(hand.encoder.length(hand.records[i]) for i in chain.from_iterable(planned[-1]))
    assert lines[-1]["data/tokens_total"] > tokens, "a filler ran"
    assert lines[-1]["data/samples_total"] == sum(map(len, planned[-1]))
    trained, expected = load_file(folder / "final/model.safetensors"), dict(hand.model.named_parameters())
    moved = load_file(stage1_kit.checkpoint / "model.safetensors")
    for name, weight in trained.items():
        difference = float((weight - expected[name].detach()).abs().max())
        assert difference < CLOSE, name
    assert max(float((trained[name] - moved[name]).abs().max()) for name in moved) > RATE, "weights have moved"
