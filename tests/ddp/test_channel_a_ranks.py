"""Both channels over two ranks: equal to one, checkpointing, plain and under ZeRO-2, with packs that ranks lack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file

from tests.ddp.ranks import read_log, train
from tests.ddp.test_stage2_ranks import RATE, ROLLOUTS, SETTINGS, agree
from tests.plugins.stage2 import EARLY, pipeline

if TYPE_CHECKING:
    from tests.plugins.stage2 import Stage2Kit

pytestmark = [pytest.mark.ddp, pytest.mark.timeout(900)]


def run(kit: Stage2Kit, name: str, ranks: int, **sections: Any) -> tuple[list[dict[str, float]], Path]:
    """The log and the folder of a run of four steps over seven records, A, B, A and B: 4, 3, 4 and 3 records."""
    channels = {"schedule": {"b_ratio": 0.5}, "n_softctx_iter": 3, "pipeline": pipeline(desc_ce_weight=2.0)}
    path = kit.write(
        name,
        row=300,
        model={"model": str(EARLY)},
        training={**SETTINGS, "gradient_checkpointing": True},
        custom={"trainer_variant": "stage2_two_channel", "train_sample_limit": 7},
        stage2_ab={**channels, **sections.pop("stage2_ab", {})},
        rollout_matching={**ROLLOUTS, "pipeline": None},
        **sections,
    )
    _, folder = train(path, ranks)
    return read_log(folder), folder


@pytest.mark.invariant("TRAIN-039")
@pytest.mark.parametrize(
    ("grad_mode", "deepspeed", "rel", "close"),
    [("unroll", {}, 1e-5, 1e-5), ("em_detach", {"enabled": True, "config": "zero2"}, 1e-4, 3e-6)],
    ids=["ddp", "zero2"],
)
def test_two_ranks_train_on_both_channels_as_one_does(
    stage2_kit: Stage2Kit, grad_mode: str, deepspeed: dict[str, Any], rel: float, close: float
) -> None:
    chosen = {"softctx_grad_mode": grad_mode}
    one, alone = run(stage2_kit, f"channels_1_{grad_mode}", 1, stage2_ab=chosen)
    two, pair = run(stage2_kit, f"channels_2_{grad_mode}", 2, stage2_ab=chosen, deepspeed=deepspeed)
    steps = [line for line in two if "loss" in line]
    assert ["rollout/samples_total" in line for line in steps] == [False, True, False, True]
    assert [line["data/samples_total"] for line in steps] == [4, 3, 4, 3]
    assert any(line["packing/packs_total"] % 2 for line in steps[::2]), "in a step of A ranks have different packs"
    assert [line["stage2_ab/b_ratio_realized"] for line in steps] == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    agree(one, two, rel=rel)
    weights, expected = (load_file(folder / "final/model.safetensors") for folder in (pair, alone))
    start = load_file(EARLY / "model.safetensors")
    moved = max(float((weight - start[name]).abs().max()) for name, weight in expected.items() if name in start)
    assert moved > RATE
    for name, weight in expected.items():
        assert float((weight - weights[name]).abs().max()) < close, name
