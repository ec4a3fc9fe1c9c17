"""The teacher forward: equal to the model's own, through every wrapper, with the head put aside and put back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import peft
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from coordexp.forward.head import output_head
from coordexp.forward.teacher import hidden_states_only, teacher_hidden
from coordexp.forward.unwrap import unwrap_model
from coordexp.packing.collate import collate_packed, collate_padded
from coordexp.packing.positions import build_rope_index
from tests.plugins.tiny_qwen import COORD_IDS, PAD, ROWS, four_samples, tiny_config, tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROPE = build_rope_index(tiny_config())
LORA = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)


def packed():
    return collate_packed(four_samples(), ROPE)


@pytest.fixture
def gloo(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def gradients(model: torch.nn.Module, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of a scalar that reads the hidden states and the head, keyed by the name inside the wrappers."""
    output_head(model, COORD_IDS).logits(hidden).square().mean().backward()
    found = {name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_equal_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys() and expected
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.invariant("FWD-001")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padded", [False, True])
def test_hidden_states_through_the_head_are_the_models_own_logits(tied, padded):
    model = tiny_model(tied=tied)
    batch = collate_padded(four_samples(), ROPE, PAD) if padded else packed()
    hidden = teacher_hidden(model, batch)
    assert hidden.shape == (*batch.input_ids.shape, 64)
    expected = model(**batch.model_inputs(), use_cache=False).logits
    torch.testing.assert_close(output_head(model, COORD_IDS).logits(hidden), expected, rtol=0, atol=1e-6)


@pytest.mark.invariant("FWD-001")
def test_gradients_are_those_of_a_loss_on_the_models_own_logits():
    model, batch = tiny_model(), packed()
    model(**batch.model_inputs(), use_cache=False).logits.square().mean().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    assert_equal_gradients(gradients(model, teacher_hidden(model, batch)), expected)


@pytest.mark.invariant("FWD-001")
def test_peft_adapters_take_part_and_receive_gradients():
    model, batch = tiny_model(), packed()
    plain = teacher_hidden(model, batch).detach()
    wrapped = peft.get_peft_model(model, LORA)
    hidden = teacher_hidden(wrapped, batch)
    assert (hidden - plain).abs().max() > 1e-3
    found = gradients(wrapped, hidden)
    assert found and all("lora_" in name for name in found)


@pytest.mark.invariant("FWD-001")
@pytest.mark.parametrize("tied", [True, False])
def test_ddp_reduces_every_gradient_and_changes_none(gloo, tied):
    model, batch = tiny_model(tied=tied), packed()
    expected = gradients(model, teacher_hidden(model, batch))
    wrapped = DistributedDataParallel(model)
    reduced = []

    def count(state, bucket):  # torch refuses annotations that are strings
        reduced.extend(bucket.parameters())
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    wrapped.register_comm_hook(None, count)
    for _ in range(2):  # a second step fails unless the first has reduced everything
        reduced.clear()
        assert_equal_gradients(gradients(wrapped, teacher_hidden(wrapped, batch)), expected)
        assert len(reduced) == len(list(model.parameters()))


@pytest.mark.invariant("FWD-001")
def test_ddp_around_peft_is_unwrapped_to_the_transformers_model(gloo):
    model = tiny_model()
    wrapped = DistributedDataParallel(peft.get_peft_model(model, LORA))
    assert unwrap_model(wrapped) is model
    assert all("lora_" in name for name in gradients(wrapped, teacher_hidden(wrapped, packed())))


@pytest.mark.invariant("FWD-001")
def test_gradient_checkpointing_changes_nothing():
    model, batch = tiny_model(), packed()
    expected = gradients(model, teacher_hidden(model, batch))
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_equal_gradients(gradients(model, teacher_hidden(model, batch)), expected)


@pytest.mark.invariant("FWD-002")
def test_the_head_is_back_after_the_forward_and_after_an_error():
    model, batch = tiny_model(), packed()
    head, names = model.lm_head, list(model.state_dict())
    teacher_hidden(model, batch)
    assert model.lm_head is head and list(model.state_dict()) == names
    with pytest.raises(ValueError, match="features"):
        teacher_hidden(
            model,
            dataclasses.replace(batch, pixel_values=batch.pixel_values[:24], image_grid_thw=batch.image_grid_thw[:1]),
        )
    assert model.lm_head is head
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.invariant("FWD-002")
def test_inside_the_context_the_model_returns_hidden_states_and_outside_logits():
    model, inputs = tiny_model(), packed().model_inputs()
    with hidden_states_only(model):
        assert model(**inputs).logits.shape[-1] == 64
    assert model(**inputs).logits.shape[-1] == ROWS


@pytest.mark.invariant("FWD-003")
def test_the_model_sees_its_inputs_and_no_cache_and_nothing_else():
    model, batch = tiny_model(), packed()
    seen: dict[str, object] = {}
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs, args=args), with_kwargs=True)
    teacher_hidden(model, batch)
    assert set(seen) == {
        "args",
        "input_ids",
        "position_ids",
        "mm_token_type_ids",
        "pixel_values",
        "image_grid_thw",
        "use_cache",
    }
    assert seen["args"] == () and seen["use_cache"] is False
    assert torch.equal(seen["position_ids"], batch.position_ids)


@pytest.mark.invariant("FWD-003")
@pytest.mark.parametrize("rows", [1, 3])
def test_positions_without_four_rows_are_refused(rows):
    batch = dataclasses.replace(packed(), position_ids=packed().position_ids[-rows:])
    with pytest.raises(ValueError, match="the rows text, t, h, w"):
        teacher_hidden(tiny_model(), batch)


@pytest.mark.invariant("FWD-003")
def test_ddp_that_looks_for_unused_parameters_is_refused(gloo):
    wrapped = DistributedDataParallel(tiny_model(tied=False), find_unused_parameters=True)
    with pytest.raises(ValueError, match="ddp_find_unused_parameters: false"):
        teacher_hidden(wrapped, packed())


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.seen.add(tuple(value.shape))
        return result


@pytest.mark.invariant("FWD-009")
def test_no_tensor_of_tokens_by_vocabulary_exists_during_forward_and_backward():
    model, batch = tiny_model(), packed()
    tokens = batch.input_ids.shape[1]
    with Shapes() as own:
        model(**batch.model_inputs(), use_cache=False).logits.sum().backward()
    assert any(shape[-1:] == (ROWS,) and tokens in shape for shape in own.seen), "the check can see such a tensor"
    with Shapes() as ours:
        output_head(model, COORD_IDS).logits(teacher_hidden(model, batch)[0, :3]).sum().backward()
    assert not [shape for shape in ours.seen if shape[-1:] == (ROWS,) and tokens in shape]


@pytest.mark.invariant("FWD-001")
def test_a_module_that_holds_no_transformers_model_is_refused():
    with pytest.raises(TypeError, match="Linear is no transformers model"):
        unwrap_model(torch.nn.Linear(2, 2))
