"""Which steps of a real run move the policy: told by the rates, and the same by a digest of what would be pushed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from coordexp.config import load_config
from coordexp.forward.merged_weights import iter_merged_weights
from coordexp.rollout.weight_digest import WeightDigest
from coordexp.training.policy_motion import PolicyMotion

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

WARM = {"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {"min_lr": None}, "warmup_steps": 2}
LORA = {"tuner": {"tuner_type": "lora", "target_modules": ["q_proj"]}}
OFFSETS = {"custom": {"coord_offset": {"enabled": True, "embed_lr": 1e-2}}}


def digest_of(model: torch.nn.Module) -> str:
    told = WeightDigest()
    for name, tensor in iter_merged_weights(model):
        told.add(name, tensor)
    return told.hexdigest()


@dataclass
class Pusher(TrainerCallback):  # type: ignore[misc]
    """Looks at the weights after every step, and notes a push after each of `every` steps."""

    motion: PolicyMotion
    every: int
    last: str = ""
    seen: list[tuple[bool, bool]] = field(default_factory=list)
    """Whether the policy is said to have moved since the push, and whether its bits have."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        self.last = digest_of(given["model"])

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        now = digest_of(given["model"])
        self.seen.append((self.motion.moved_since_push(), now != self.last))
        if state.global_step % self.every == 0:
            self.last = now
            self.motion.note_push()


def watched(kit: Stage1Kit, name: str, every: int = 1, **sections: Any) -> list[tuple[bool, bool]]:
    """A run of four steps."""
    from coordexp.training.stage1 import build_stage1

    sections["training"] = {"max_steps": 4, **sections.get("training", {})}
    trainer = build_stage1(load_config(kit.write(name, **sections)))
    motion = PolicyMotion()
    pusher = Pusher(motion, every)
    trainer.add_callback(motion)
    trainer.add_callback(pusher)
    assert not motion.moved_since_push()
    trainer.train()
    return pusher.seen


@pytest.mark.invariant("TRAIN-050")
@pytest.mark.parametrize("tuner", [{}, LORA], ids=["full", "lora"])
def test_the_first_step_of_a_warm_up_moves_nothing_and_is_not_said_to(stage1_kit: Stage1Kit, tuner: Any) -> None:
    seen = watched(stage1_kit, f"motion-warm-{len(tuner)}", training=WARM, **tuner)
    assert seen == [(False, False), (True, True), (True, True), (True, True)]


@pytest.mark.invariant("TRAIN-050")
def test_without_a_warm_up_every_step_moves(stage1_kit: Stage1Kit) -> None:
    training = {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"min_lr": None}, "warmup_ratio": 0.0}
    assert watched(stage1_kit, "motion-constant", training=training) == [(True, True)] * 4


@pytest.mark.invariant("TRAIN-050")
def test_motion_is_remembered_until_the_next_push(stage1_kit: Stage1Kit) -> None:
    seen = watched(stage1_kit, "motion-rare", every=3, training=WARM)
    assert seen == [(False, False), (True, True), (True, True), (True, True)]


@pytest.mark.invariant("TRAIN-050")
def test_one_part_with_a_rate_is_enough(stage1_kit: Stage1Kit) -> None:
    """Everything frozen but the coord offsets."""
    frozen = {"tuner": {"freeze_llm": True, "freeze_vit": True, "freeze_aligner": True}}
    assert watched(stage1_kit, "motion-offsets", **frozen, **OFFSETS)[1:] == [(True, True)] * 3


def stepped(optimizer: Any, loss: torch.Tensor | None = None, motion: PolicyMotion | None = None) -> bool:
    """One optimizer step as the loop takes it; whether the policy is said to have moved."""
    motion = motion or PolicyMotion()
    nothing = (None, TrainerState(), TrainerControl())
    motion.on_step_begin(*nothing, optimizer=optimizer)
    before = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 1.0  # DeepSpeed's own step may have set the next one's rate by now
    if loss is not None:
        optimizer.scaler.scale(loss).backward()
    optimizer.step()
    motion.on_optimizer_step(*nothing, optimizer=optimizer)
    for group, rate in zip(optimizer.param_groups, before, strict=True):
        group["lr"] = rate
    return motion.moved_since_push()


def optimizer_of(parameter: torch.nn.Parameter, rate: float, scaler: Any = None) -> Any:
    """The wrapper that the loop steps through."""
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    Accelerator(cpu=True)
    inner = torch.optim.SGD([{"params": [parameter], "lr": rate}])
    return AcceleratedOptimizer(inner, device_placement=False, scaler=scaler)


@pytest.mark.invariant("TRAIN-050")
@pytest.mark.parametrize(("rate", "trained", "expected"), [(0.0, True, False), (0.5, False, False), (0.5, True, True)])
def test_the_rate_counts_that_the_step_began_with_on_what_is_trained(rate: float, trained: bool, expected: bool):
    parameter = torch.nn.Parameter(torch.ones(2), requires_grad=trained)
    assert stepped(optimizer_of(parameter, rate)) is expected


@pytest.mark.invariant("TRAIN-050")
def test_a_step_at_rate_0_does_not_undo_the_one_before():
    motion, optimizer = PolicyMotion(), optimizer_of(torch.nn.Parameter(torch.ones(2)), 0.5)
    assert stepped(optimizer, motion=motion)
    optimizer.param_groups[0]["lr"] = 0.0
    assert stepped(optimizer, motion=motion)
    motion.note_push()
    assert not motion.moved_since_push() and not stepped(optimizer, motion=motion)


@pytest.mark.invariant("TRAIN-050")
@pytest.mark.parametrize(("factor", "expected"), [(1.0, True), (float("inf"), False)])
def test_a_step_that_overflows_is_left_out(factor: float, expected: bool):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = optimizer_of(parameter, 0.5, torch.amp.GradScaler("cpu"))
    assert stepped(optimizer, (parameter * factor).sum()) is expected
    assert bool((parameter == 1).all()) is not expected
