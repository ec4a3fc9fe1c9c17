"""Stage 2 in miniature: configs over the stage-1 miniature's files, and a backend that answers what it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from coordexp.rollout.types import BackendSettings, Decoding, RolloutOutput, RolloutRequest
from tests.plugins.stage1 import SHIPPED

if TYPE_CHECKING:
    import torch

    from coordexp.rollout.types import Progress
    from coordexp.training.trainer import CoordTrainer
    from coordexp.training.types import StepPlan
    from tests.plugins.stage1 import Stage1Kit

EARLY = Path(__file__).resolve().parents[2] / "fixtures/tiny-qwen3vl-early"
"""A trained model that still makes mistakes."""
WEIGHTS = {
    "rollout_fn_desc_weight": 3.0,
    "smoothl1_weight": 2.0,
    "ciou_weight": 0.5,
    "soft_ce_weight": 1.5,
    "w1_weight": 0.7,
    "coord_gate_weight": 0.9,
    "text_gate_weight": 0.4,
    "target_sigma": 8.0,
}
"""Weights of the miniature's objective; none is its default."""


def pipeline(**token_ce: float) -> dict[str, Any]:
    """An authored objective with the weights above."""
    geo, reg = ("smoothl1_weight", "ciou_weight"), WEIGHTS.keys() - {"rollout_fn_desc_weight"}
    return {
        "objective": [
            {"name": "token_ce", "config": {"rollout_fn_desc_weight": 3.0, **token_ce}},
            {"name": "bbox_geo", "config": {key: WEIGHTS[key] for key in geo}},
            {"name": "coord_reg", "config": {key: WEIGHTS[key] for key in sorted(reg - set(geo))}},
        ],
        "diagnostics": [{"name": "coord_diag", "config": {}}],
    }


@dataclass(frozen=True)
class Stage2Kit:
    """Writes configs of rollout-aligned training on the stage-1 miniature's files."""

    stage1: Stage1Kit

    def write(self, name: str, row: int = 600, **sections: dict[str, Any]) -> Path:
        """A config file; keyword arguments override its sections."""
        folder = self.stage1.root / name
        folder.mkdir()
        base: dict[str, dict[str, Any]] = {
            "model": {"model": str(self.stage1.checkpoint)},
            "training": {
                "output_dir": str(folder / "run"),
                "logging_dir": str(folder / "tb"),
                "run_name": name,
                "max_steps": 2,
                "logging_steps": 1,
                "save_strategy": "no",
                "learning_rate": 1e-3,
                "effective_batch_size": 4,
                "packing": True,
            },
            "custom": {
                "trainer_variant": "stage2_rollout_aligned",
                "train_jsonl": str(self.stage1.train),
                "val_jsonl": str(self.stage1.val),
                "desc_ce_weight": 1.0,
                "coord_soft_ce_w1": None,
                "bbox_geo": None,
            },
            "rollout_matching": {"max_new_tokens": 64, "decode_batch_size": 4, "pipeline": pipeline()},
        }
        merged = {key: base.get(key, {}) | sections.get(key, {}) for key in base | sections}
        document = {"extends": str(SHIPPED), "global_max_length": row, **merged}
        (folder / "config.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        return folder / "config.yaml"


@dataclass
class Scripted:
    """Answers each sample with the ids that `answer` gives for it: what no model can be made to say."""

    answer: Callable[[str], Sequence[int]]
    stop: int
    lags: int = 0
    policy_version: int = 0
    asked: list[tuple[list[RolloutRequest], Decoding]] = field(default_factory=list)

    @property
    def settings(self) -> BackendSettings:
        return BackendSettings("scripted", "float32", 1, logprobs=True)

    def sync(self, policy_version: int) -> None:
        self.policy_version = policy_version - self.lags

    def take_observed(self) -> dict[str, tuple[float, float]]:
        return {}

    def generate(
        self, requests: Sequence[RolloutRequest], decoding: Decoding, progress: Progress | None = None
    ) -> list[RolloutOutput]:
        self.asked.append((list(requests), decoding))
        return [self._output(request) for request in requests]

    def _output(self, request: RolloutRequest) -> RolloutOutput:
        ids = tuple(self.answer(request.sample_id))
        reason = "stop" if ids and ids[-1] == self.stop else "length"
        return RolloutOutput(
            request.sample_id, request.prompt_token_ids, ids, "", reason, self.policy_version,
            token_logprobs=(-0.5,) * len(ids),
        )  # fmt: skip


def answers_by_sample(answers: Mapping[str, Sequence[int]]) -> Callable[[str], Sequence[int]]:
    """What a `Scripted` looks answers up with."""
    return lambda sample: answers[sample]


Learnt = tuple[float, "dict[str, torch.Tensor]"]
"""Loss and gradients of a plan."""
CLOSE = 1e-6


def learn(trainer: CoordTrainer, plan: StepPlan, **changes: Any) -> Learnt:
    """Loss and gradients of a plan, by the trainer's own runner with `changes`."""
    from coordexp.training.loop import run_plan

    model, run = trainer.model, replace(trainer.parts.run, **changes)
    model.train()
    model.zero_grad()
    loss = run_plan(model, plan, run, trainer.accelerator, lambda *_: None)
    return float(loss), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def disagreements(found: Learnt, wanted: Learnt) -> list[str]:
    """What is not the same, to `CLOSE` of the largest gradient: the loss, and parameters by name."""
    assert found[1].keys() == wanted[1].keys()
    largest = max(float(grad.abs().max()) for grad in wanted[1].values())
    assert largest > 1e-3, "something is learnt"
    far = [
        name for name, grad in wanted[1].items() if not float((found[1][name] - grad).abs().max()) <= CLOSE * largest
    ]
    return far if found[0] == pytest.approx(wanted[0], rel=CLOSE) else ["loss", *far]


@pytest.fixture(scope="session")
def stage2_kit(stage1_kit: Stage1Kit) -> Stage2Kit:
    """Configs of stage 2 on the files of `stage1_kit`."""
    return Stage2Kit(stage1_kit)
