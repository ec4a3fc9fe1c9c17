"""What the hooks make of ms-swift's rollout classes, on stand-ins for the engine and the app."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from swift.pipelines.infer import rollout

from coordexp.bridges import store_communicator, swift_rollout
from coordexp.bridges.request_seeds import whole_prompts
from coordexp.bridges.swift_rollout import ServerHooks, install_hooks

STOP = 379


class Engine:
    """In the place of ms-swift's engine: adds requests in order, as upstream does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.made_with = kwargs
        self.tokenizer = SimpleNamespace(convert_tokens_to_ids=lambda token: {"<|im_end|>": STOP}[token])
        self.added: list[dict[str, Any]] = []
        self.given: list[Any] = []

    def infer(self, infer_requests: list[Any], request_config: Any = None) -> list[int]:
        self.given = infer_requests
        for index, _ in enumerate(infer_requests):
            config = SimpleNamespace(**vars(request_config))
            if config.seed is not None:
                config.seed += index
            self._add_request({"n": index}, config)
        return list(range(len(infer_requests)))

    def _add_request(self, inputs: Any, generation_config: Any) -> None:
        self.added.append(dict(vars(generation_config)))


class App:
    """In the place of ms-swift's deployment."""

    def _register_rl_rollout_app(self) -> None:
        raise NotImplementedError

    async def infer(self, infer_requests: Any, request_config: Any = None, *, use_tqdm: Any = None) -> Any:
        raise NotImplementedError

    async def process_weights_after_loading(self) -> Any:
        raise NotImplementedError


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An engine of a worker in which the hooks are in place."""
    monkeypatch.setattr(rollout, "GRPOVllmEngine", Engine)
    monkeypatch.setattr(rollout, "SwiftRolloutDeploy", type("Fresh", (App,), {}))
    hooks = ServerHooks(
        describe_engine=lambda found: {"seen": type(found).__mro__[1].__name__},
        app_facts=lambda deploy: {},
        envelope=lambda request, answer: {},
        weights_loaded=lambda: None,
        api_key=None,
        stop_token="<|im_end|>",
        logprobs_mode="raw_logprobs",
        engine_kwargs={"logits_processors": ["a:B"]},
    )
    assert install_hooks(hooks), "in place for the first time"
    assert not install_hooks(hooks), "and no second time"
    yield rollout.GRPOVllmEngine(logprobs_mode="processed_logprobs", model="m", engine_kwargs={"block_size": 32})


def config(temperature: float, seed: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(temperature=temperature, seed=seed, stop=["word"], stop_token_ids=[1, 2], ignore_eos=False)


@pytest.mark.invariant("BRIDGE-009")
def test_each_request_is_drawn_by_the_seed_that_it_carries(engine: Any) -> None:
    requests = [{"messages": [], "coordexp": {"seed": seed}} for seed in (70, 5, 2**31 - 1)]
    engine.infer([*requests, {"messages": []}], config(0.7))
    assert [added["seed"] for added in engine.added] == [70, 5, 2**31 - 1, None]
    assert engine.given == [{"messages": []}] * 4, "ms-swift does not see what is ours"
    assert requests[0] == {"messages": [], "coordexp": {"seed": 70}}


@pytest.mark.invariant("BRIDGE-009")
def test_a_greedy_request_has_no_seed(engine: Any) -> None:
    engine.infer([{"messages": [], "coordexp": {}}, {"messages": [], "coordexp": {"seed": 3}}], config(0.0, seed=9))
    assert [added["seed"] for added in engine.added] == [None, None]


@pytest.mark.invariant("BRIDGE-009")
def test_an_answer_ends_at_the_end_of_its_turn_alone(engine: Any) -> None:
    engine.infer([{"messages": []}], config(0.7))
    ends = ("stop", "stop_token_ids", "ignore_eos")
    assert {name: engine.added[0][name] for name in ends} == {"stop": [], "stop_token_ids": [STOP], "ignore_eos": True}


@pytest.mark.invariant("BRIDGE-009")
def test_log_probabilities_are_the_model_s_own(engine: Any) -> None:
    whole = {} if torch.cuda.is_available() else whole_prompts(None)
    more = {"block_size": 32, "logits_processors": ["a:B"], **whole}
    assert engine.made_with == {"logprobs_mode": "raw_logprobs", "model": "m", "engine_kwargs": more}
    described = engine.coordexp_describe()
    assert described == {"seen": "Engine"}
    assert engine.coordexp_describe() is described, "made once: a real vocabulary's fingerprint takes most of a second"


@pytest.mark.invariant("BRIDGE-009")
@pytest.mark.invariant("BRIDGE-008")
@pytest.mark.parametrize("release", ["4.5.9", "4.60.0", "5.0.0", None])
def test_another_release_is_refused(monkeypatch: pytest.MonkeyPatch, release: str | None) -> None:
    from coordexp.bridges import versions

    monkeypatch.setattr(versions, "installed_version", lambda name: release if name == "ms-swift" else "0.32.0")
    monkeypatch.setattr(rollout, "GRPOVllmEngine", Engine)
    monkeypatch.setattr(rollout, "SwiftRolloutDeploy", type("Fresh", (App,), {}))
    with pytest.raises(ImportError, match=rf"ms-swift {release or 'absent'}: .* is proven with ms-swift 4\.6"):
        install_hooks(None)  # type: ignore[arg-type]
    assert rollout.GRPOVllmEngine is Engine
    with pytest.raises(ImportError, match=r"weight sync on a CPU is proven with ms-swift 4\.6"):
        store_communicator.enable_cpu_weight_sync()
    assert swift_rollout.PROVEN_VERSIONS.keys() <= store_communicator.PROVEN_VERSIONS.keys()


@pytest.mark.invariant("BRIDGE-011")
def test_arguments_for_a_cpu_can_cross_to_a_worker() -> None:
    import pickle

    from swift.arguments import RolloutArguments

    from coordexp.bridges.swift_rollout_cpu import CpuRolloutArguments, CpuRolloutDeploy

    assert pickle.loads(pickle.dumps(CpuRolloutArguments)) is CpuRolloutArguments
    assert CpuRolloutDeploy.args_class is CpuRolloutArguments and issubclass(CpuRolloutArguments, RolloutArguments)
