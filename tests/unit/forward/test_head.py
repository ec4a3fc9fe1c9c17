"""The output head as data: same logits as the model, tied or not, and what it refuses."""

from __future__ import annotations

import peft
import pytest
import torch

from coordexp.forward.coord_offset import install_coord_offset
from coordexp.forward.head import output_head
from tests.plugins.tiny_qwen import COORD_IDS, tiny_model


@pytest.mark.invariant("FWD-004")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tie_head", [None, True, False], ids=["no adapter", "shared offset", "own offsets"])
def test_logits_are_those_of_the_models_own_head(tied, tie_head):
    model = tiny_model(tied=tied)
    if tie_head is not None:
        adapter = install_coord_offset(model, COORD_IDS, tie_head=tie_head)
        with torch.no_grad():
            adapter.embed_offset.normal_(std=0.5)
            adapter.head_offset.normal_(std=0.5)
    hidden = torch.randn(2, 3, 64)
    head = output_head(model, COORD_IDS)
    torch.testing.assert_close(head.logits(hidden), model.lm_head(hidden), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        head.coord_logits(hidden), model.lm_head(hidden)[..., list(COORD_IDS)], rtol=0, atol=1e-5
    )


@pytest.mark.invariant("FWD-004")
def test_coord_logits_follow_the_id_list_and_not_a_slice():
    model = tiny_model()
    scattered = [*range(87, 1087, 2), *range(88, 1088, 2)]
    hidden = torch.randn(4, 64)
    found = output_head(model, scattered).coord_logits(hidden)
    torch.testing.assert_close(found, model.lm_head(hidden)[:, scattered], rtol=0, atol=1e-6)


@pytest.mark.invariant("FWD-004")
def test_hidden_states_of_another_dtype_are_scored_in_the_weights_dtype():
    model = tiny_model().to(torch.bfloat16)
    assert output_head(model, COORD_IDS).logits(torch.randn(3, 64)).dtype == torch.bfloat16


@pytest.mark.invariant("FWD-004")
def test_a_head_that_an_adapter_has_wrapped_is_refused():
    model = peft.get_peft_model(tiny_model(tied=False), peft.LoraConfig(target_modules=["lm_head"]))
    with pytest.raises(TypeError, match=r"Take lm_head out of the adapter's target modules"):
        output_head(model, COORD_IDS)


@pytest.mark.invariant("FWD-004")
def test_coord_ids_other_than_the_adapters_are_refused():
    model = tiny_model()
    install_coord_offset(model, COORD_IDS, tie_head=True)
    with pytest.raises(ValueError, match="other coord ids"):
        output_head(model, COORD_IDS[::-1])
