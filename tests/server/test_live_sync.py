"""After a push a live server runs the learner's weights, all of them, and nothing else passes the canary."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch

from coordexp.forward.coord_offset import coord_offset_of
from coordexp.forward.unwrap import unwrap_model
from coordexp.rollout import weight_link
from coordexp.rollout.types import RolloutError
from coordexp.rollout.wire import RolloutServerError
from tests.plugins.stage2 import EARLY
from tests.server.learners import backend_of, build, disturb, greedy, hf_of, ids_of, requests_of

if TYPE_CHECKING:
    from pathlib import Path

    from coordexp.rollout.weight_sync import WeightPusher
    from coordexp.training.trainer import CoordTrainer
    from tests.plugins.live_server import Live
    from tests.plugins.stage2 import Stage2Kit

pytestmark = [pytest.mark.server, pytest.mark.timeout(600), pytest.mark.xdist_group("live")]
LORA = {"tuner_type": "lora", "lora_rank": 4, "lora_alpha": 16, "target_modules": ["all-linear"]}
NOT_THE_LEARNERS = "does not run the learner's weights"
Make = Callable[..., "CoordTrainer"]


@pytest.fixture
def make(live: Live, stage2_kit: Stage2Kit, request: pytest.FixtureRequest) -> Make:
    """A learner of its own for a test."""
    names = iter(range(9))

    def build_one(**sections: dict[str, Any]) -> CoordTrainer:
        name = "".join(c if c.isalnum() else "_" for c in request.node.name)
        return build(stage2_kit, live, f"{name}{next(names)}", **sections)

    return build_one


def pusher_of(trainer: CoordTrainer) -> WeightPusher:
    pusher = backend_of(trainer).weights.pusher
    assert pusher is not None
    return pusher


def trained(trainer: CoordTrainer) -> list[torch.nn.Parameter]:
    return [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]


def vision(trainer: CoordTrainer) -> list[torch.nn.Parameter]:
    named = unwrap_model(trainer.model).named_parameters()
    return [parameter for name, parameter in named if "visual" in name]


@pytest.mark.invariant("ROLL-035")
@pytest.mark.parametrize("tuner", ["full", "lora", "dora"])
def test_after_a_push_the_server_answers_as_the_learner(make: Make, stage2_kit: Stage2Kit, tuner: str) -> None:
    sections: dict[str, Any] = {}
    if tuner != "full":
        sections = {
            "tuner": LORA | ({"use_dora": True} if tuner == "dora" else {}),
            "custom": {"coord_offset": {"enabled": True, "tie_head": True}},
        }
    trainer = make(**sections)
    backend, requests = backend_of(trainer), requests_of(trainer, stage2_kit, 8)
    backend.sync(0)
    before = ids_of(backend.generate(requests, greedy()))
    disturb(trained(trainer), 0.02)
    offset = coord_offset_of(trainer.model)
    assert (offset is not None) == (tuner != "full")
    backend.sync(1)
    served, own = backend.generate(requests, greedy()), hf_of(trainer).generate(requests, greedy())
    assert ids_of(served) == ids_of(own) != before, "the weights have moved, and so has the server"
    assert {output.policy_version for output in served} == {1}
    gaps = [
        abs(a - b)
        for s, o in zip(served, own, strict=True)
        for a, b in zip(s.token_logprobs, o.token_logprobs, strict=True)
    ]
    assert max(gaps) < 2e-4


@pytest.mark.invariant("ROLL-036")
def test_weights_are_pushed_when_they_are_newer_and_not_otherwise(make: Make, stage2_kit: Stage2Kit) -> None:
    trainer = make()
    backend, pusher = backend_of(trainer), pusher_of(trainer)
    begun = dict(pusher.weight_loads)
    assert backend.policy_version == -1
    for version, loads in ((0, 1), (0, 1), (3, 2), (3, 2)):
        backend.sync(version)
        backend.generate(requests_of(trainer, stage2_kit, 1), greedy(4))
        assert [now - then for now, then in zip(pusher.weight_loads.values(), begun.values(), strict=True)] == [loads]
    assert backend.take_observed()["rollout/weight_pushes_total"][0] == 2
    assert pusher.last is not None and pusher.last.tensors == 103


def all_but(pusher: WeightPusher, part: str) -> Callable[[], Iterator[tuple[str, torch.Tensor]]]:
    whole = pusher.policy.weights
    return lambda: ((name, tensor) for name, tensor in whole() if part not in name)


class Partial:
    """A policy that pushes what `weights` yields and takes it for all there is."""

    def __init__(self, weights: Callable[[], Iterator[tuple[str, torch.Tensor]]]) -> None:
        self.weights = weights

    def count(self) -> int:
        return sum(1 for _ in self.weights())

    def moved(self) -> bool:
        return False  # what the digest would find is left to the canary

    def note_push(self) -> None:
        """Nothing to note."""


@pytest.mark.invariant("ROLL-035")
@pytest.mark.parametrize("part", ["visual", "language_model.layers.0", "embed_tokens", "merger"])
def test_a_push_that_leaves_weights_out_is_caught(make: Make, part: str) -> None:
    """Those weights alone are moved first."""
    trainer = make()
    backend, pusher = backend_of(trainer), pusher_of(trainer)
    backend.sync(0)
    left_out = [p for name, p in unwrap_model(trainer.model).named_parameters() if part in name]
    disturb(left_out, 0.05)
    pusher.policy = Partial(all_but(pusher, part))
    with pytest.raises(RolloutServerError, match=NOT_THE_LEARNERS):
        backend.sync(1)


@pytest.mark.invariant("ROLL-035")
def test_a_push_of_the_base_without_its_adapter_is_caught(make: Make) -> None:
    trainer = make(tuner=LORA)
    backend, pusher = backend_of(trainer), pusher_of(trainer)
    backend.sync(0)
    disturb(trained(trainer), 0.02)
    base = {name: weight.clone() for name, weight in pusher.policy.weights()}
    with unwrapped_adapter(trainer):
        plain = {name: weight.clone() for name, weight in pusher.policy.weights()}
    assert any(not torch.equal(base[name], plain[name]) for name in base), "the adapter changes weights"
    pusher.policy = Partial(lambda: iter(plain.items()))
    with pytest.raises(RolloutServerError, match=NOT_THE_LEARNERS):
        backend.sync(1)


def unwrapped_adapter(trainer: CoordTrainer) -> Any:
    """While open, the adapter adds nothing: its B matrices are zero."""
    from contextlib import contextmanager

    @contextmanager
    def zeroed() -> Iterator[None]:
        kept = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora_B" in n}
        assert kept
        named = dict(trainer.model.named_parameters())
        with torch.no_grad():
            for name in kept:
                named[name].zero_()
            yield
            for name, value in kept.items():
                named[name].copy_(value)

    return zeroed()


@pytest.mark.invariant("ROLL-035")
def test_the_canary_asks_before_the_first_rollout(make: Make) -> None:
    """The server has what an earlier learner pushed; a push that sends nothing leaves it so."""
    earlier = make()
    disturb(trained(earlier), 0.05)
    backend_of(earlier).sync(0)
    trainer = make()
    pusher_of(trainer).policy = Partial(lambda: iter([next(pusher_of(earlier).policy.weights())]))
    with pytest.raises(RolloutServerError, match=NOT_THE_LEARNERS):
        backend_of(trainer).sync(0)


@pytest.mark.invariant("ROLL-035")
@pytest.mark.parametrize("cache", ["/reset_prefix_cache/", "/reset_encoder_cache/"])
def test_a_cache_of_the_old_weights_is_caught(make: Make, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    trainer = make()
    backend = backend_of(trainer)
    backend.sync(0)
    monkeypatch.setattr(weight_link, "CACHES", tuple(path for path in weight_link.CACHES if path != cache))
    disturb(vision(trainer), 0.05)
    with pytest.raises(RolloutServerError, match=NOT_THE_LEARNERS):
        backend.sync(1)


@pytest.mark.invariant("ROLL-037")
def test_weights_of_another_learner_are_not_answered_with(make: Make, stage2_kit: Stage2Kit) -> None:
    first = make()
    backend_of(first).sync(0)
    second = make()
    disturb(trained(second), 0.02)
    backend_of(second).sync(0)
    with pytest.raises(RolloutServerError, match="stale weights, or another learner pushes"):
        backend_of(first).generate(requests_of(first, stage2_kit, 2), greedy(8))
    with pytest.raises(RolloutServerError, match="another learner pushes to it, or it was restarted"):
        backend_of(first).sync(1)


@pytest.mark.invariant("ROLL-038")
@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (
            {"rollout_matching": {"vllm": {"max_model_len": 900}}},
            "max_model_len: the server has 1024, the learner needs 900",
        ),
        ({"template": {"max_pixels": 50000}}, "max_pixels: the server has 65536, the learner needs 50000"),
        ({"training": {"bf16": True}}, "dtype: the server has float32, the learner needs bfloat16"),
        (
            {"rollout_matching": {"vllm": {"enable_prefix_caching": False}}},
            "enable_prefix_caching: the server has True, the learner needs False",
        ),
        (
            {"rollout_matching": {"repeat_terminate": {"enabled": True, "max_object_keys": 40}}},
            "repeat_terminate: the server has None, the learner needs ",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_server_that_runs_something_else_is_refused(
    live: Live, make: Make, sections: dict[str, Any], told: str
) -> None:
    if "vllm" in sections.get("rollout_matching", {}):
        sections = {"rollout_matching": {"vllm": live.section() | sections["rollout_matching"]["vllm"]}}
    with pytest.raises(RolloutServerError, match="does not run what the configuration says") as refusal:
        make(**sections)
    assert told in str(refusal.value) and str(refusal.value).count("the server has") == 1


@pytest.mark.invariant("ROLL-038")
def test_a_server_of_another_checkpoint_or_key_is_refused(
    live: Live, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(EARLY, tmp_path / "copy")
    with pytest.raises(RolloutServerError, match=rf"model: the server has {EARLY}, the learner needs {copy}"):
        make(model={"model": str(copy)})
    monkeypatch.setenv("COORDEXP_ROLLOUT_API_KEY", "another")
    with pytest.raises(RolloutError, match="401, the API key is not its own"):
        make()
