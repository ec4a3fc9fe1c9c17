"""The teacher forward: equal to the model's own, through every wrapper, scored inside it by the head."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import peft
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from coordexp.forward.coord_offset import install_coord_offset
from coordexp.forward.head import OutputHead, VocabularyHead, install_vocabulary_head, output_head
from coordexp.forward.teacher import hidden_states, teacher_forward
from coordexp.forward.unwrap import unwrap_model
from coordexp.packing.collate import collate_packed, collate_padded
from coordexp.packing.positions import build_rope_index
from tests.plugins.tiny_qwen import COORD_IDS, PAD, ROWS, four_samples, tiny_config, tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from coordexp.packing.types import PackedBatch

ROPE = build_rope_index(tiny_config())
LORA = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)


def packed():
    return collate_packed(four_samples(), ROPE)


@pytest.fixture
def gloo(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def states(model: torch.nn.Module, batch: PackedBatch) -> torch.Tensor:
    """The hidden states that a computation in the head's place is given."""
    install_vocabulary_head(model)
    return teacher_forward(model, batch, output_head(model, COORD_IDS), lambda hidden, head: (hidden,))[0]


def squared(hidden: torch.Tensor, head: OutputHead) -> tuple[torch.Tensor, ...]:
    """A scalar that reads the hidden states and the head."""
    return (head.logits(hidden).square().mean(),)


def gradients(model: torch.nn.Module, batch: PackedBatch) -> dict[str, torch.Tensor]:
    """Gradients of `squared`, keyed by the name inside the wrappers."""
    install_vocabulary_head(model)
    teacher_forward(model, batch, output_head(model, COORD_IDS), squared)[0].backward()
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
    expected = model(**batch.model_inputs(), use_cache=False).logits
    hidden = states(model, batch)
    assert hidden.shape == (*batch.input_ids.shape, 64)
    assert torch.equal(hidden_states(model, batch), hidden)
    torch.testing.assert_close(output_head(model, COORD_IDS).logits(hidden), expected, rtol=0, atol=1e-6)


@pytest.mark.invariant("FWD-001")
def test_gradients_are_those_of_a_loss_on_the_models_own_logits():
    model, batch = tiny_model(), packed()
    model(**batch.model_inputs(), use_cache=False).logits.square().mean().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    assert_equal_gradients(gradients(model, batch), expected)


@pytest.mark.invariant("FWD-001")
def test_peft_adapters_take_part_and_receive_gradients():
    model, batch = tiny_model(), packed()
    plain = hidden_states(model, batch).detach()
    wrapped = peft.get_peft_model(model, LORA)
    assert (states(wrapped, batch) - plain).abs().max() > 1e-3
    found = gradients(wrapped, batch)
    assert found and all("lora_" in name for name in found)


@pytest.mark.invariant("FWD-001")
@pytest.mark.parametrize("unused", [True, False], ids=["looking for unused parameters", "not looking"])
@pytest.mark.parametrize("tied", [True, False])
def test_ddp_reduces_every_gradient_and_changes_none(gloo, tied, unused):
    model, batch = tiny_model(tied=tied), packed()
    expected = gradients(model, batch)
    wrapped = DistributedDataParallel(model, find_unused_parameters=unused)
    reduced = []

    def count(state, bucket):  # torch refuses annotations that are strings
        reduced.extend(bucket.parameters())
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    wrapped.register_comm_hook(None, count)
    for _ in range(2):  # a second step fails unless the first has reduced everything
        reduced.clear()
        assert_equal_gradients(gradients(wrapped, batch), expected)
        assert len(reduced) == len(list(model.parameters()))


@pytest.mark.invariant("FWD-001")
def test_ddp_around_peft_is_unwrapped_to_the_transformers_model(gloo):
    model = tiny_model()
    wrapped = DistributedDataParallel(peft.get_peft_model(model, LORA))
    assert unwrap_model(wrapped) is model
    assert all("lora_" in name for name in gradients(wrapped, packed()))


@pytest.mark.invariant("FWD-001")
def test_gradient_checkpointing_changes_nothing():
    model, batch = tiny_model(), packed()
    expected = gradients(model, batch)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_equal_gradients(gradients(model, batch), expected)


@pytest.mark.invariant("FWD-002")
@pytest.mark.parametrize("tied", [True, False])
def test_the_head_keeps_its_parameter_and_its_names(tied):
    model, batch = tiny_model(tied=tied), packed()
    weight, names = model.lm_head.weight, list(model.state_dict())
    logits = model(**batch.model_inputs(), use_cache=False).logits
    head = install_vocabulary_head(model)
    assert install_vocabulary_head(model) is head is model.get_output_embeddings()
    assert head.weight is weight and list(model.state_dict()) == names
    assert (head.weight is model.get_input_embeddings().weight) == tied
    assert torch.equal(model(**batch.model_inputs(), use_cache=False).logits, logits)


@pytest.mark.invariant("FWD-002")
def test_the_head_multiplies_out_logits_again_after_the_forward_and_after_an_error():
    model, batch = tiny_model(), packed()
    assert states(model, batch).shape[-1] == 64

    def fail(hidden: torch.Tensor, head: OutputHead) -> tuple[torch.Tensor, ...]:
        raise ArithmeticError("a computation that fails")

    with pytest.raises(ArithmeticError):
        teacher_forward(model, batch, output_head(model, COORD_IDS), fail)
    assert isinstance(model.lm_head, VocabularyHead)
    assert model(**batch.model_inputs()).logits.shape[-1] == ROWS


@pytest.mark.invariant("FWD-002")
def test_a_model_with_its_own_head_is_refused():
    model = tiny_model()
    with pytest.raises(TypeError, match="call install_vocabulary_head"):
        teacher_forward(model, packed(), output_head(model, COORD_IDS), squared)


@pytest.mark.invariant("FWD-002")
def test_a_head_that_coord_offsets_hook_already_is_not_replaced():
    model = tiny_model()
    install_coord_offset(model, COORD_IDS, tie_head=True)
    with pytest.raises(ValueError, match="install the vocabulary head before them"):
        install_vocabulary_head(model)


@pytest.mark.invariant("FWD-003")
def test_the_model_sees_its_inputs_and_no_cache_and_nothing_else():
    model, batch = tiny_model(), packed()
    seen: dict[str, object] = {}
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs, args=args), with_kwargs=True)
    states(model, batch)
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
        states(tiny_model(), batch)


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
    install_vocabulary_head(model)
    head = output_head(model, COORD_IDS)
    with Shapes() as ours:
        few = teacher_forward(model, batch, head, lambda hidden, head: (head.logits(hidden[0, :3]).sum(),))
        few[0].backward()
    assert not [shape for shape in ours.seen if shape[-1:] == (ROWS,) and tokens in shape]


@pytest.mark.invariant("FWD-001")
def test_a_module_that_holds_no_transformers_model_is_refused():
    with pytest.raises(TypeError, match="Linear is no transformers model"):
        unwrap_model(torch.nn.Linear(2, 2))
