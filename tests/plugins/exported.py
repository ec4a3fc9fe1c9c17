"""Runs of each kind of tuner and offsets, made when first asked for, and the export command as tests call it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.plugins.stage2 import EARLY

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

OFFSETS = {"enabled": True, "embed_lr": 0.02}
OWN_HEAD = {**OFFSETS, "tie_head": False, "head_lr": 0.02}
LORA = {"tuner_type": "lora", "lora_rank": 4}
DORA = {**LORA, "use_dora": True}
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "full-offsets": {"custom": {"coord_offset": OFFSETS}},
    "full-own-head": {"custom": {"coord_offset": OWN_HEAD}},
    "lora": {"tuner": LORA},
    "lora-offsets": {"tuner": LORA, "custom": {"coord_offset": OFFSETS}},
    "dora-own-head": {"tuner": DORA, "custom": {"coord_offset": OWN_HEAD}},
}


@dataclass(frozen=True)
class Trained:
    """A run of two steps from a trained model, its final weights, its validation loss, and some of its pictures."""

    config: Path
    final: Path
    eval_loss: float
    pictures: tuple[Path, ...]

    @property
    def run(self) -> Path:
        return self.final.parent


@pytest.fixture
def own_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test captures is the command's own: a handler of a library that was first imported in another test holds
    that test's closed stream, and logging would show a traceback of it.
    """
    monkeypatch.setattr(logging, "raiseExceptions", False)


@pytest.fixture(scope="session")
def trained(stage1_kit: Stage1Kit) -> Callable[[str], Trained]:
    """A run of each kind, made when it is first asked for."""
    made: dict[str, Trained] = {}

    def make(kind: str) -> Trained:
        from coordexp.config import load_config
        from coordexp.training.stage1 import run_stage1

        if kind not in made:
            training = {
                "eval_strategy": "steps",
                "eval_steps": 2,
                "learning_rate": 1e-3,
            }
            path = stage1_kit.write(
                f"export_{kind}", **{**KINDS[kind], "model": {"model": str(EARLY)}, "training": training}
            )
            outcome = run_stage1(load_config(path))
            loss = next(line["eval_loss"] for line in outcome.log_history if "eval_loss" in line)
            pictures = tuple(sorted((stage1_kit.train.parent / "images").glob("*.png"))[:6])
            made[kind] = Trained(path, outcome.checkpoint, loss, pictures)
        return made[kind]

    return make


def tell(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout, and the last line of stderr."""
    from coordexp.entrypoints.export import main as export

    capsys.readouterr()
    code = export(argv)
    told = capsys.readouterr()
    return code, told.out, told.err
