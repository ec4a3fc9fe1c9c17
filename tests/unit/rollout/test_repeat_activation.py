"""Limits of repeat_terminate from a configuration to a server's processes, by the environment of its start alone."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest

from coordexp.config.rollout_sections import RepeatTerminateConfig
from coordexp.rollout.activation import (
    ACTIVATION_VARIABLES,
    INJECTION_VARIABLE,
    LIMITS_VARIABLE,
    ActivationError,
    read_activation,
    render_activation,
)
from coordexp.rollout.serve import server_environment
from coordexp.rollout.server_plugin import install
from coordexp.rollout.server_plugin.guard import PROCESSOR
from coordexp.rollout.server_plugin.liveness import Served
from coordexp.rollout.server_plugin.repeats import RepeatGuardError
from coordexp.rollout.types import Decoding, RolloutRequest
from coordexp.rollout.vllm_client import build_body, render_request_config
from coordexp.spec import check
from tests.plugins.stage2 import EARLY

LIMITS = RepeatTerminateConfig(
    enabled=True, min_new_tokens=3, max_consecutive_token_repeats=4, ngram_size=5, ngram_repeats=6, max_object_keys=7
)


@pytest.mark.invariant("ROLL-042")
def test_every_limit_reaches_the_server_as_the_configuration_says_it() -> None:
    environment = server_environment({"PATH": "/bin"}, "key", LIMITS)
    assert read_activation(environment) == LIMITS
    assert json.loads(environment[LIMITS_VARIABLE]) == dataclasses.asdict(LIMITS), "the whole section"
    defaults = {field.name: field.default for field in dataclasses.fields(LIMITS)}
    assert not {name for name, value in dataclasses.asdict(LIMITS).items() if value == defaults[name]}


@pytest.mark.invariant("ROLL-042")
@pytest.mark.parametrize("limits", [None, RepeatTerminateConfig(max_object_keys=4)])
def test_a_server_of_a_run_without_it_has_none_whatever_the_shell_holds(limits: RepeatTerminateConfig | None) -> None:
    shell = {"PATH": "/bin", **render_activation(LIMITS)}
    environment = server_environment(shell, "key", limits)
    assert read_activation(environment) is None and environment["PATH"] == "/bin"
    assert read_activation(server_environment(shell, "key", dataclasses.replace(LIMITS, ngram_size=9))) != LIMITS


@pytest.mark.invariant("ROLL-042")
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({INJECTION_VARIABLE: "1"}, rf"{INJECTION_VARIABLE} is 1 and {LIMITS_VARIABLE} is not set"),
        ({INJECTION_VARIABLE: "yes"}, r"is 'yes'; write 1, or leave it unset"),
        ({INJECTION_VARIABLE: "1", LIMITS_VARIABLE: "{"}, rf"{LIMITS_VARIABLE}: Expecting .*scripts/train_stage2\.sh"),
        ({INJECTION_VARIABLE: "1", LIMITS_VARIABLE: "[]"}, rf"{LIMITS_VARIABLE}: .*is not a mapping"),
        ({INJECTION_VARIABLE: "1", LIMITS_VARIABLE: '{"enabled": true, "ngram": 2}'}, "ngram"),
        ({INJECTION_VARIABLE: "1", LIMITS_VARIABLE: '{"enabled": true, "ngram_size": 0}'}, "ngram_size"),
        ({INJECTION_VARIABLE: "1", LIMITS_VARIABLE: '{"max_object_keys": 2}'}, "enabled: false"),
    ],
)
def test_a_server_that_is_told_half_of_it_does_not_start(environment: dict[str, str], words: str) -> None:
    with pytest.raises(ActivationError, match=words):
        read_activation(environment)


@pytest.mark.invariant("ROLL-042")
@pytest.mark.parametrize("switch", [{}, {INJECTION_VARIABLE: "0"}, {INJECTION_VARIABLE: ""}])
def test_limits_without_the_switch_are_nothing(switch: dict[str, str]) -> None:
    assert read_activation({**switch, LIMITS_VARIABLE: render_activation(LIMITS)[LIMITS_VARIABLE]}) is None


def hooks_of(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Any:
    """What the plugin installs in a process with this environment."""
    installed: list[Any] = []
    for name in ACTIVATION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(install, "install_hooks", installed.append)
    monkeypatch.setattr(install, "enable_cpu_weight_sync", lambda: None)
    monkeypatch.setattr(install, "install_grammar", lambda *_: None)
    install.install_plugin()
    return installed[0]


@pytest.mark.invariant("ROLL-042")
def test_the_plugin_gives_the_processor_to_the_engine_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hooks_of(monkeypatch, render_activation(LIMITS)).engine_kwargs["logits_processors"] == [PROCESSOR]
    assert "logits_processors" not in hooks_of(monkeypatch, {}).engine_kwargs
    with pytest.raises(ActivationError):
        hooks_of(monkeypatch, {INJECTION_VARIABLE: "1"})


@pytest.mark.invariant("ROLL-042")
def test_no_request_carries_a_processor_or_a_limit() -> None:
    allowed = set(render_request_config(Decoding(9, temperature=0.5)))
    assert not {name for name in allowed if "process" in name or "repeat" in name or "ngram" in name}
    request = RolloutRequest("a", (1,))
    body = build_body([request], Decoding(9), [{"role": "user", "content": "find"}])
    assert check("http/infer-request", body) is body
    with pytest.raises(ValueError, match="logits_processors"):
        check("http/infer-request", body | {"request_config": body["request_config"] | {"logits_processors": ["a:b"]}})


def answer(*ids: int) -> dict[str, Any]:
    return {"response": {"choices": [{"token_ids": list(ids)}]}}


@pytest.mark.invariant("ROLL-041")
def test_the_app_replays_the_guard_over_the_ids_that_it_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    stop = int(AutoTokenizer.from_pretrained(EARLY, local_files_only=True).convert_tokens_to_ids("<|im_end|>"))
    hooks = hooks_of(monkeypatch, render_activation(LIMITS))
    deploy = SimpleNamespace(args=SimpleNamespace(model=str(EARLY)))
    for ids, flag in (((5, 5, 5, 5, stop), 1), ((5, 5, 5, stop), 0), ((5, 5, 5, 5), 0)):
        envelope = check("http/envelope", hooks.envelope(deploy, {"seed": 3}, answer(*ids)))
        assert (envelope["repeat_terminate_triggered"], envelope["seed"]) == (flag, 3)
    with pytest.raises(RepeatGuardError, match="the guard was not at work"):
        hooks.envelope(deploy, {}, answer(5, 5, 5, 5, 6, stop))
    # Without the guard nothing is read, and nothing is said.
    assert Served().envelope("nowhere", {}, answer(5, 5, 5, 5, stop))["repeat_terminate_triggered"] == 0
