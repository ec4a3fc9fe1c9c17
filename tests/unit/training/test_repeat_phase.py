"""Repeat termination in a step on rollouts: what it does not touch is as without it, what it ends is as if cut."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
import torch

from coordexp.config import load_config
from coordexp.training.stage2_rollout_aligned import build_stage2_rollout_aligned
from coordexp.training.types import StepRecords
from tests.plugins.stage2 import EARLY, Scripted, answers_by_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.training.types import StepPlan
    from tests.plugins.stage2 import Stage2Kit

HIGH = {"enabled": True, "min_new_tokens": 0, "max_object_keys": 500, "max_consecutive_token_repeats": 500}
LOW = HIGH | {"min_new_tokens": 16, "max_object_keys": 1}
ACTIVE = "rollout/repeat_terminate_active"
ENDED = "rollout/repeat_terminate_triggered_sequences"


def build(kit: Stage2Kit, name: str, repeats: dict[str, Any] | None) -> Any:
    section = {} if repeats is None else {"repeat_terminate": repeats}
    path = kit.write(name, model={"model": str(EARLY)}, rollout_matching={"max_new_tokens": 120, **section})
    return build_stage2_rollout_aligned(load_config(path))


def plan_of(trainer: Any) -> StepPlan:
    phase = trainer.parts.plans.make.__self__
    return phase.plan(StepRecords(0, 0, tuple(trainer.parts.dataset[index] for index in range(4))))


def same(left: Any, right: Any) -> bool:
    """Whether two samples or parts of them hold the same tokens, labels, types, weights and slots."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if dataclasses.is_dataclass(left):
        return all(same(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left))
    if isinstance(left, (tuple, list)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def comparable(observed: dict[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    return {key: value for key, value in observed.items() if "time/" not in key and key not in without}


@pytest.mark.invariant("ROLL-047")
def test_a_guard_that_touches_no_answer_changes_nothing_but_its_flag(stage2_kit: Stage2Kit) -> None:
    free, guarded = (
        plan_of(build(stage2_kit, f"repeats_{name}", limits)) for name, limits in (("no", None), ("high", HIGH))
    )
    assert (free.observed[ACTIVE][0], guarded.observed[ACTIVE][0]) == (0.0, 1.0)
    assert (
        comparable(free.observed, [ACTIVE]) == comparable(guarded.observed, [ACTIVE]) and free.observed[ENDED][0] == 0
    )
    assert free.observed["rollout/fp_total"][0] > 0 and free.observed["rollout/matched_total"][0] > 0, (
        "something to match"
    )
    samples = [[sample for forward in plan.forwards for sample in forward.samples] for plan in (free, guarded)]
    assert len(samples[0]) == 4 and same(samples[0], samples[1]) and same(free.normalizers, guarded.normalizers)


@pytest.mark.invariant("ROLL-047")
def test_answers_that_are_ended_are_counted_and_read_up_to_their_last_object(stage2_kit: Stage2Kit) -> None:
    free, ended = plan_of(build(stage2_kit, "ended_no", None)), plan_of(build(stage2_kit, "ended_low", LOW))
    count = ended.observed[ENDED][0]
    assert 0 < count <= 4 and ended.observed["rollout/valid_pred_objects_total"][0] <= 4
    assert ended.observed["rollout/parse_truncated_rate"][0] >= count > free.observed["rollout/parse_truncated_rate"][0]
    assert ended.observed["rollout/token_limit_rate"][0] == 0.0
    assert ended.observed["rollout/gt_objects_total"] == free.observed["rollout/gt_objects_total"], (
        "misses are injected"
    )
    missed = ended.observed["rollout/gt_objects_total"][0] - ended.observed["rollout/matched_total"][0]
    assert ended.observed["rollout/fn_appended_total"][0] == missed


@pytest.mark.invariant("ROLL-047")
def test_an_answer_that_is_ended_behind_its_last_brace_is_truncated_all_the_same(stage2_kit: Stage2Kit) -> None:
    trainer = build(stage2_kit, "ended_whole", None)
    phase, encoder = trainer.parts.plans.make.__self__, trainer.parts.run.encoder
    items = [trainer.parts.dataset[index] for index in range(4)]
    told = {item.prompt.sample_id: [*encoder.ground_truth(item.record).ids, encoder.turn.end] for item in items}

    class Ended(Scripted):
        def generate(self, requests: Any, decoding: Any, progress: Any = None) -> Any:
            outputs = super().generate(requests, decoding, progress)
            return [dataclasses.replace(each, repeat_terminated=n == 1) for n, each in enumerate(outputs)]

    phase.backend = Ended(answers_by_sample(told), encoder.turn.end)
    observed = phase.plan(StepRecords(0, 0, tuple(items))).observed
    assert observed["rollout/parse_rate"] == (4.0, 4.0) and observed["rollout/parse_truncated_rate"] == (1.0, 4.0)
    assert observed[ENDED][0] == 1 and observed["rollout/fn_total"][0] == 0
