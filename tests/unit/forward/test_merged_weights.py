"""What a rollout server is given: plain names, what peft merges to the last bit, offsets; the live model unmoved."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import Qwen3VLForConditionalGeneration

from coordexp.forward.coord_offset import coord_offset_of, install_coord_offset
from coordexp.forward.coord_offset_files import merged_state_dict
from coordexp.forward.head import install_vocabulary_head
from coordexp.forward.merged_weights import UnservableWeights, check_servable, iter_merged_weights, merged_names
from coordexp.forward.unwrap import unwrap_model
from coordexp.packing.collate import collate_packed
from coordexp.packing.positions import build_rope_index
from tests.plugins.tiny_qwen import COORD_IDS, FIRST_COORD, four_samples, tiny_config, tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.plugins.receivers import Built

ROPE = build_rope_index(tiny_config())
LINEAR = r".*\.(q_proj|v_proj|down_proj|qkv|attn\.proj|linear_fc1|linear_fc2)"
LORA: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": LINEAR},
    "dora": {"target_modules": LINEAR, "use_dora": True},
    "rslora": {"target_modules": ["q_proj", "up_proj"], "use_rslora": True},
    "one tower": {"target_modules": ["qkv", "linear_fc2"]},
    "conv": {"target_modules": ["patch_embed.proj", "o_proj"]},
    "conv dora": {"target_modules": ["patch_embed.proj", "o_proj"], "use_dora": True},
    "rows": {"target_modules": ["pos_embed", "k_proj"]},
    "rows dora": {"target_modules": ["pos_embed", "k_proj"], "use_dora": True},
    "bias": {"target_modules": ["qkv", "q_proj"], "bias": "all"},
    "lora bias": {"target_modules": ["qkv"], "lora_bias": True},
    "whole parts": {"target_modules": ["q_proj", "qkv"], "modules_to_save": ["visual.merger", "layers.1.mlp"]},
}  # fmt: skip
KINDS = pytest.mark.parametrize("kind", [None, *LORA], ids=["full", *(name.replace(" ", "-") for name in LORA)])


def learner(
    kind: str | None = None, *, tied: bool = True, tie_head: bool | None = True, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """The order in which training builds: peft, head, offsets (none under None); then every trained number is moved."""
    model: nn.Module = tiny_model(tied=tied).to(dtype).train()
    if kind is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            model = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=5, lora_dropout=0.1, **LORA[kind]))
    install_vocabulary_head(model)
    if tie_head is not None:
        install_coord_offset(model, COORD_IDS, tie_head=tie_head, dtype=torch.float32)
    return moved(model)


def moved(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return model


def plain(model: nn.Module) -> Qwen3VLForConditionalGeneration:
    """A fresh model of the same configuration."""
    return Qwen3VLForConditionalGeneration(copy.deepcopy(unwrap_model(model).config))


def by_peft(model: nn.Module) -> dict[str, torch.Tensor]:
    """What peft and the export of offsets make of a copy of the whole model."""
    twin = copy.deepcopy(model)
    if isinstance(twin, peft.PeftModel):
        twin = twin.merge_and_unload(safe_merge=True)
    state = merged_state_dict(twin) if coord_offset_of(twin) else twin.state_dict()
    return {name: state[name] for name, _ in plain(model).named_parameters()}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(torch.uint8)


def assert_pushed(model: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    pushed = list(iter_merged_weights(model))
    assert [name for name, _ in pushed] == [name for name, _ in plain(model).named_parameters()] == merged_names(model)
    for name, tensor in pushed:
        assert tensor.dtype == expected[name].dtype and tensor.shape == expected[name].shape, name
        assert torch.equal(bits(tensor), bits(expected[name])), name
        assert not tensor.requires_grad


@pytest.mark.invariant("FWD-021")
@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_what_is_pushed_is_what_peft_merges_and_offsets_add(kind, dtype):
    model = learner(kind, dtype=dtype)
    expected = by_peft(model)
    assert_pushed(model, expected)
    base = tiny_model().to(dtype).state_dict()
    told = {name for name in expected if not torch.equal(expected[name], base[name])}
    assert "model.language_model.embed_tokens.weight" in told
    towers = {name.split(".")[1] for name in told}
    assert "visual" in towers or kind == "rslora", "the vision tower has been moved"


@pytest.mark.invariant("FWD-021")
@pytest.mark.parametrize("kind", [None, "lora", "dora"])
@pytest.mark.parametrize(
    ("tied", "tie_head"), [(True, True), (True, None), (False, True), (False, False), (False, None)]
)
def test_offsets_reach_both_ends_tied_and_untied(kind, tied, tie_head):
    model = learner(kind, tied=tied, tie_head=tie_head)
    assert_pushed(model, by_peft(model))
    pushed = dict(iter_merged_weights(model))
    assert ("lm_head.weight" in pushed) == (not tied)
    if not tied and tie_head is not None:
        before = tiny_model(tied=False).lm_head.weight
        changed = (pushed["lm_head.weight"] != before).any(1)
        assert not changed[:FIRST_COORD].any() and changed[FIRST_COORD:].all()


@pytest.mark.invariant("FWD-021")
@pytest.mark.parametrize("kind", [None, "lora", "dora", "conv", "conv dora", "rows dora", "bias", "whole parts"])
def test_a_plain_model_of_pushed_weights_answers_like_the_live_one(kind):
    """Independent of how peft merges: the forward of the trained model is the judge."""
    model = learner(kind, tied=False, tie_head=False).eval()
    served = plain(model).eval()
    served.set_attn_implementation("sdpa")
    with torch.no_grad():
        for parameter in served.parameters():
            parameter.fill_(float("nan"))
        for name, tensor in iter_merged_weights(model):
            served.get_parameter(name).copy_(tensor)
        inputs = collate_packed(four_samples(), ROPE).model_inputs()
        expected = unwrap_model(model)(**inputs, use_cache=False).logits
        before = tiny_model(tied=False)(**inputs, use_cache=False).logits
        found = served(**inputs, use_cache=False).logits
    assert (expected - before).abs().max() > 0.01, "the policy is not the base"
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.invariant("FWD-021")
@pytest.mark.parametrize("kind", [None, "lora"])
def test_a_model_that_ddp_has_wrapped_is_pushed_alike(kind, one_rank):
    model = learner(kind)
    expected = by_peft(model)
    assert_pushed(DistributedDataParallel(model), expected)


@pytest.mark.invariant("FWD-021")
@pytest.mark.parametrize("name", ["packed", "adapter", "biases", "frozen", "frozen_text"])
def test_learners_that_training_builds_are_pushed_whole(name: str, built_run: Callable[[str], Built]):
    model = moved(copy.deepcopy(built_run(name).trainer.model))
    assert_pushed(model, by_peft(model))


@pytest.mark.invariant("FWD-021")
def test_a_learner_with_a_whole_part_is_pushed_once_its_offsets_are_shared(built_run: Callable[[str], Built]):
    model = moved(copy.deepcopy(built_run("workers").trainer.model))
    with pytest.raises(UnservableWeights, match=r"custom\.coord_offset\.tie_head: true"):
        next(iter_merged_weights(model))
    del unwrap_model(model).coord_offset
    pushed, expected = dict(iter_merged_weights(model)), model.merge_and_unload(safe_merge=True).state_dict()
    for key in ("model.visual.merger.norm.weight", "model.language_model.layers.0.self_attn.v_proj.weight"):
        assert torch.equal(pushed[key], expected[key])


def state_of(model: nn.Module) -> dict[str, Any]:
    """All of a model that a push could leave changed."""
    return {
        "numbers": {name: bits(tensor).clone() for name, tensor in model.state_dict().items()},
        "places": [(name, id(p), p.data_ptr(), p.requires_grad, p.grad) for name, p in model.named_parameters()],
        "modes": [(name, id(module), module.training) for name, module in model.named_modules()],
        "hooks": [
            (name, key, dict(hooks))
            for name, module in model.named_modules()
            for key, hooks in vars(module).items()
            if key.endswith("_hooks") and isinstance(hooks, dict)
        ],
        "merged": [list(module.merged_adapters) for module in model.modules() if hasattr(module, "merged_adapters")],
        "chance": torch.get_rng_state(),
    }


@pytest.mark.invariant("FWD-022")
@pytest.mark.parametrize("kind", [None, "lora", "dora", "rows dora", "conv dora", "whole parts", "lora bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_live_model_stays_as_it_is(kind, dtype):
    model = learner(kind, dtype=dtype)
    before = state_of(model)
    for _ in iter_merged_weights(model):
        pass
    after = state_of(model)
    for part in ("places", "modes", "hooks", "merged"):
        assert after[part] == before[part], part
    assert torch.equal(after["chance"], before["chance"])
    assert all(torch.equal(after["numbers"][name], value) for name, value in before["numbers"].items())


@pytest.mark.invariant("FWD-022")
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_training_step_after_a_push_is_the_one_without(kind):
    def gradients(push: bool) -> dict[str, torch.Tensor]:
        model = learner(kind)
        if push:
            list(iter_merged_weights(model))
        torch.manual_seed(3)
        unwrap_model(model)(
            **collate_packed(four_samples(), ROPE).model_inputs(), use_cache=False
        ).logits.square().mean().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    found, expected = gradients(push=True), gradients(push=False)
    assert found.keys() == expected.keys() and found
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.invariant("FWD-022")
def test_one_layer_is_copied_at_a_time_and_what_is_not_merged_is_no_copy():
    model = learner("lora")
    own = {p.data_ptr() for p in model.parameters()}
    earlier: list[weakref.ref[torch.Tensor]] = []
    kept_live = 0
    gc.collect()
    gc.disable()
    try:
        for _, tensor in iter_merged_weights(model):
            earlier = [reference for reference in earlier if reference() is not None]
            assert len(earlier) <= 2, "weight and bias of one layer"
            if tensor.data_ptr() in own:
                kept_live += 1
            else:
                earlier.append(weakref.ref(tensor))
            del tensor
    finally:
        gc.enable()
    assert kept_live > len(list(model.parameters())) // 4
    layers = sum(isinstance(found, peft.tuners.tuners_utils.BaseTunerLayer) for found in model.modules())
    assert layers > 10


@pytest.mark.invariant("FWD-022")
def test_a_layer_is_copied_without_what_hooks_on_it_hold():
    model = learner("lora")
    held = nn.Linear(4, 4)
    copies: list[nn.Module] = []
    held.__dict__["__deepcopy__"] = lambda memo: copies.append(held) or held

    class Watcher:
        def __init__(self) -> None:
            self.model = held

        def seen(self, module: nn.Module, args: Any, output: Any) -> None:
            return None

    for module in model.modules():
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
            module.register_forward_hook(Watcher().seen)
    list(iter_merged_weights(model))
    assert copies == []


@pytest.mark.invariant("FWD-021")
def test_names_are_listed_without_merging():
    model = learner("dora")
    names = merged_names(model)
    assert names == [name for name, _ in plain(model).named_parameters()]
    poisoned = learner("dora")
    with torch.no_grad():
        for name, parameter in poisoned.named_parameters():
            if "lora_" in name:
                parameter.fill_(float("nan"))
    assert merged_names(poisoned) == names


@pytest.mark.invariant("FWD-021")
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_autocast_around_a_push_does_not_round_what_is_merged(kind):
    model = learner(kind)
    expected = dict(iter_merged_weights(model))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = dict(iter_merged_weights(model))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.invariant("FWD-021")
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_that_is_no_longer_finite_is_refused_by_the_name_of_its_layer(kind):
    model = learner(kind)
    layer = next(name for name, _ in model.named_modules() if name.endswith("layers.1.mlp.down_proj"))
    with torch.no_grad():
        model.get_submodule(layer).lora_B["default"].weight[0, 0] = float("nan")
    with pytest.raises(UnservableWeights, match=r"^model\.language_model\.layers\.1\.mlp\.down_proj: NaNs detected"):
        list(iter_merged_weights(model))


@pytest.mark.invariant("FWD-021")
def test_own_offsets_of_a_tied_head_are_refused_before_anything_is_pushed():
    model = learner("lora", tied=True, tie_head=False)
    with pytest.raises(UnservableWeights, match=r"Write custom\.coord_offset\.tie_head: true, or .*backend: hf"):
        next(iter_merged_weights(model))


@pytest.mark.invariant("FWD-021")
@pytest.mark.parametrize(
    "knobs",
    [
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
)
def test_an_adapter_that_unties_the_ends_is_refused(knobs):
    model = peft.get_peft_model(tiny_model(), peft.LoraConfig(r=2, **knobs))
    with pytest.raises(UnservableWeights, match=r"Take embed_tokens and lm_head out of tuner\.target_modules"):
        check_servable(model)
    untied = peft.get_peft_model(tiny_model(tied=False), peft.LoraConfig(r=2, **knobs))
    assert_pushed(moved(untied), by_peft(untied))


@pytest.mark.invariant("FWD-021")
def test_a_wrapper_that_is_not_merged_is_refused_by_name():
    knobs = {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 4]}}
    model = peft.get_peft_model(tiny_model(tied=False), peft.LoraConfig(r=2, **knobs))
    with pytest.raises(UnservableWeights, match=r"embed_tokens: a TrainableTokensWrapper is not merged"):
        list(iter_merged_weights(model))
