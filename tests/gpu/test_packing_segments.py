"""The project's own attention on a GPU, where torch's varlen kernel attends: samples stay apart, results are sdpa's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from coordexp.forward.probe import check_no_leak
from coordexp.forward.teacher import hidden_states
from coordexp.packing.collate import collate_packed, collate_padded
from coordexp.packing.positions import build_rope_index
from coordexp.packing.types import PackedBatch
from tests.plugins.tiny_qwen import PAD, four_samples, tiny_config, tiny_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")]
ROPE = build_rope_index(tiny_config())
Autocast = torch.dtype | None
# Weights, and autocast's type where it is on: full tuning keeps float32 weights.
PRECISIONS = [(torch.bfloat16, None), (torch.float16, None), (torch.float32, None), (torch.float32, torch.bfloat16)]
ROUNDING = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def step(attn_impl: str, batch: PackedBatch, weights: torch.dtype, autocast: Autocast) -> dict[str, torch.Tensor]:
    """Loss and gradients of one teacher-forced step."""
    model = tiny_model(attn_impl).to("cuda", weights).train()
    batch = batch.to("cuda")
    with torch.autocast("cuda", autocast or torch.bfloat16, enabled=autocast is not None):
        logits = model.lm_head(hidden_states(model, batch)).float()
    loss = F.cross_entropy(logits[0, :-1], batch.input_ids[0, 1:])
    loss.backward()
    found = {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach()}


@pytest.mark.invariant("FWD-017")
@pytest.mark.parametrize(("weights", "autocast"), PRECISIONS)
def test_the_kernel_keeps_packed_samples_apart(weights: torch.dtype, autocast: Autocast) -> None:
    model = tiny_model("segments").to("cuda", weights)
    with torch.autocast("cuda", autocast or torch.bfloat16, enabled=autocast is not None):
        assert check_no_leak(model, four_samples(), ROPE) <= ROUNDING[autocast or weights]


@pytest.mark.invariant("FWD-017")
@pytest.mark.parametrize(("weights", "autocast"), PRECISIONS)
def test_losses_and_gradients_on_a_gpu_are_those_of_sdpa(weights: torch.dtype, autocast: Autocast) -> None:
    batch = collate_packed(four_samples(), ROPE)
    exact = step("sdpa", batch, torch.float32, None)
    ours, theirs = (step(name, batch, weights, autocast) for name in ("segments", "sdpa"))
    assert ours.keys() == exact.keys()
    for name, value in exact.items():
        size = max(float(value.abs().max()), 1e-3)
        off, allowed = (float((found[name] - value).abs().max()) / size for found in (ours, theirs))
        assert off <= 2 * allowed + ROUNDING[autocast or weights], name


@pytest.mark.invariant("FWD-017")
@torch.no_grad()
def test_a_padded_batch_on_a_gpu_is_that_of_sdpa() -> None:
    batch = collate_padded(four_samples(), ROPE, PAD).to("cuda")
    ours, theirs = (hidden_states(tiny_model(name).to("cuda"), batch) for name in ("segments", "sdpa"))
    kept = batch.attention_mask.bool()
    torch.testing.assert_close(ours[kept], theirs[kept], rtol=0, atol=1e-3)
