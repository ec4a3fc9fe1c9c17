"""Two gloo ranks train as one does: same samples per step, same losses, same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

from tests.ddp.ranks import read_log, train

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

pytestmark = [pytest.mark.ddp, pytest.mark.timeout(900)]
COMPONENTS = (
    "loss",
    "grad_norm",
    "loss/struct_ce",
    "loss/desc_ce",
    "loss/coord_reg",
    "loss/geo",
    "coord_diag/stage1/p_gt_mean",
)


@pytest.mark.invariant("LOSS-030")
@pytest.mark.invariant("TRAIN-004")
@pytest.mark.invariant("TRAIN-009")
def test_two_ranks_give_the_losses_and_the_weights_of_one(stage1_kit: Stage1Kit) -> None:
    evaluated = {"eval_strategy": "steps", "eval_steps": 3, "eval_packing": False}
    settings = {"max_steps": 3, "effective_batch_size": 2, "save_strategy": "no", **evaluated}
    alone, one = train(stage1_kit.write("one_rank", training=settings), 1)
    shared, two = train(stage1_kit.write("two_ranks", training=settings), 2)
    assert len(alone) == len(shared) == 3
    for before, after in zip(alone, shared, strict=True):
        assert [after[key] for key in COMPONENTS] == pytest.approx([before[key] for key in COMPONENTS], rel=2e-4)
    (before,), (after,) = ([line for line in read_log(folder) if "eval_loss" in line] for folder in (one, two))
    assert before["eval_data/samples_total"] == after["eval_data/samples_total"] == 3, "one rank validates a filler"
    assert after["eval_data/tokens_total"] > before["eval_data/tokens_total"]
    keys = [key for key in before if key.startswith("eval_loss")]
    assert len(keys) > 5 and [after[key] for key in keys] == pytest.approx([before[key] for key in keys], rel=2e-4)
    first, second = (load_file(folder / "final/model.safetensors") for folder in (one, two))
    for name, weight in first.items():
        assert float((weight - second[name]).abs().max()) < 2e-4, name
