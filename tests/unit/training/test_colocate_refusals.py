"""A run whose engine is to be in its process is one rank on one device; what cannot be is refused, or told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from coordexp.bridges.inprocess_engine import EngineError
from coordexp.config import ConfigError, load_config
from coordexp.rollout.activation import read_activation
from coordexp.rollout.server_plugin.guard import PROCESSOR
from coordexp.rollout.types import RolloutError
from coordexp.training import colocate_rollouts
from coordexp.training.build import build_run
from coordexp.training.dry_run import dry_run
from coordexp.training.stage2_preflight import unsupported
from coordexp.training.trainer import train_to_end

if TYPE_CHECKING:
    from pathlib import Path

    from coordexp.config import Config
    from tests.plugins.stage2 import Stage2Kit


@pytest.fixture(autouse=True)
def vllm_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine is built here, and nothing of vLLM is replaced in the process of the tests."""
    monkeypatch.setattr(colocate_rollouts, "install_grammar", lambda *_: None)


def colocated(kit: Stage2Kit, name: str, **colocate: Any) -> Config:
    vllm = {"mode": "colocate", "max_model_len": 900, "colocate": colocate or None}
    return load_config(kit.write(name, rollout_matching={"rollout_backend": "vllm", "vllm": vllm}))


@pytest.mark.invariant("TRAIN-070")
def test_several_ranks_are_refused_with_what_to_do(stage2_kit: Stage2Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    config = colocated(stage2_kit, "two_ranks_engine")
    assert list(unsupported(config)) == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match="the run has 2 ranks, and an engine in the learner's process serves one"
    ) as one:
        build_run(config)
    (problem,) = one.value.problems
    assert problem.path == ("rollout_matching", "vllm", "mode") and problem.where.rpartition(":")[2].isdigit()
    assert "gpus=0" in str(problem) and "scripts/train_stage2.sh" in str(problem) and "hf" in str(problem)


@pytest.mark.invariant("TRAIN-070")
def test_a_model_over_several_devices_is_refused_before_it_is_loaded(stage2_kit: Stage2Kit) -> None:
    config = colocated(stage2_kit, "two_devices_engine", tensor_parallel_size=2)
    (problem,) = unsupported(config)
    key = "rollout_matching.vllm.colocate.tensor_parallel_size"
    assert f"{key}: 2: an engine in the learner's process has one device; write 1, or" in str(problem)
    with pytest.raises(ConfigError, match="has one device"):
        build_run(config)
    assert any(key in line for line in dry_run(config))


@pytest.mark.invariant("TRAIN-071")
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_run_holds_is_released_when_it_ends(tmp_path: Path, fails: bool) -> None:
    told: list[str] = []

    def train() -> None:
        told.append("train")
        if fails:
            raise KeyError("a step")

    trainer: Any = SimpleNamespace(
        train=train,
        parts=SimpleNamespace(release=lambda: told.append("release")),
        args=SimpleNamespace(output_dir=str(tmp_path)),
        save_model=lambda folder: told.append("save"),
        is_world_process_zero=lambda: False,
        state=SimpleNamespace(log_history=[]),
    )
    if fails:
        with pytest.raises(KeyError, match="a step"):
            train_to_end(trainer)
    else:
        train_to_end(trainer)
    assert told == ["train", "release", "save"][: 2 if fails else 3]


@pytest.mark.invariant("TRAIN-073")
def test_an_engine_that_cannot_be_built_says_where_it_was_asked_for(
    stage2_kit: Stage2Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise EngineError("vLLM builds no engine: Free memory on device is less than desired")

    monkeypatch.setattr(colocate_rollouts, "build_engine", refuse)
    with pytest.raises(
        RolloutError, match=r"mode colocate: vLLM builds no engine: Free .*gpu_memory_utilization where"
    ):
        colocate_rollouts.start_engine(colocated(stage2_kit, "no_memory_engine"))


@pytest.mark.invariant("ROLL-066")
def test_an_engine_that_ends_no_repetition_is_refused(stage2_kit: Stage2Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SimpleNamespace(describe=lambda: {"repeat_terminate": None}, can_sleep=False, sleep=lambda: None)
    given: list[Any] = []
    monkeypatch.setattr(colocate_rollouts, "build_engine", lambda *told: given.append(told) or engine)
    vllm = {"mode": "colocate", "max_model_len": 900}
    repeats = {"enabled": True, "max_object_keys": 9}
    section = {"rollout_backend": "vllm", "vllm": vllm, "repeat_terminate": repeats}
    config = load_config(stage2_kit.write("unguarded_engine", rollout_matching=section))
    with pytest.raises(RolloutError, match=r"repeat_terminate\.enabled: the engine has not loaded the guard"):
        colocate_rollouts.start_engine(config)
    ((settings, rules, _),) = given
    assert rules.engine_kwargs == {"logits_processors": [PROCESSOR]}
    assert read_activation(settings.environment).max_object_keys == 9


@pytest.mark.invariant("TRAIN-073")
@pytest.mark.parametrize("can_sleep", [True, False])
def test_an_engine_begins_asleep_or_says_that_it_does_not(
    stage2_kit: Stage2Kit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, can_sleep: bool
) -> None:
    class Engine:
        slept = 0

        def __init__(self, *_: Any) -> None:
            self.can_sleep = can_sleep

        def sleep(self) -> None:
            self.slept += 1

    monkeypatch.setattr(colocate_rollouts, "build_engine", Engine)
    with caplog.at_level("INFO", logger=colocate_rollouts.__name__):
        engine: Any = colocate_rollouts.start_engine(colocated(stage2_kit, f"asleep_{can_sleep}"))
    assert engine.slept == 1
    assert ("stays awake between rollouts" in caplog.text) is not can_sleep
