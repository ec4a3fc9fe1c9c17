"""What third-party code does to a process inside the two contexts is undone behind them."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch

from coordexp.bridges.process_state import preserved_environment, preserved_numbers


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def settings() -> dict[str, object]:
    return {
        "threads": torch.get_num_threads(),
        "set_num_threads": torch.set_num_threads,
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
    }


def meddle() -> None:
    """What an engine does as it is built."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_num_threads = print
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.bfloat16)
    torch.set_float32_matmul_precision("high")


@pytest.mark.invariant("BRIDGE-013")
@pytest.mark.parametrize("raises", [False, True])
def test_the_learner_s_numbers_are_what_they_were(raises: bool) -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before, wanted = settings(), draws()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    try:
        with preserved_numbers():
            meddle()
            if raises:
                raise KeyError("in the engine")
    except KeyError:
        assert raises
    assert settings() == before
    assert draws() == wanted


@pytest.mark.invariant("BRIDGE-013")
def test_the_environment_keeps_the_engine_s_own_variables_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COORDEXP_LOCK", "LOCAL_WORLD_SIZE", "VLLM_DIST_IDENT", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    with preserved_environment({"COORDEXP_LOCK": "cpu"}):
        assert os.environ["COORDEXP_LOCK"] == "cpu"
        os.environ.update(LOCAL_WORLD_SIZE="1", VLLM_DIST_IDENT="x", LD_PRELOAD="/lib/x", OMP_NUM_THREADS="1")
        del os.environ["TOKENIZERS_PARALLELISM"]
    assert os.environ["VLLM_DIST_IDENT"] == "x"
    assert "LOCAL_WORLD_SIZE" not in os.environ and "COORDEXP_LOCK" not in os.environ and "LD_PRELOAD" not in os.environ
    assert os.environ["OMP_NUM_THREADS"] == "3" and os.environ["TOKENIZERS_PARALLELISM"] == "true"
    monkeypatch.delenv("VLLM_DIST_IDENT")
