"""The packing probe tells a model that keeps samples apart from one that does not."""

from __future__ import annotations

import pytest
import torch

from coordexp.forward.probe import TOLERANCE, PackingLeak, check_no_leak, packing_leak
from coordexp.packing.positions import build_rope_index
from tests.plugins.tiny_qwen import four_samples, random_sample, tiny_config, tiny_model

ROPE = build_rope_index(tiny_config())


@pytest.mark.invariant("FWD-010")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sdpa_passes_the_probe(dtype):
    model = tiny_model().to(dtype).train()
    assert check_no_leak(model, four_samples(), ROPE) < 0.05
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.invariant("FWD-010")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_backend_without_boundaries_fails_the_probe(dtype):
    """Attention that ignores the mask it is given, as an implementation that knows no packing does."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def causal_only(module, query, key, value, attention_mask, **kwargs):
        return sdpa_attention_forward(module, query, key, value, None, **kwargs)

    AttentionInterface.register("causal_only", causal_only)
    model = tiny_model().to(dtype)
    model.model.language_model.config._attn_implementation = "causal_only"
    assert packing_leak(model, four_samples(), ROPE) > 0.1
    with pytest.raises(PackingLeak, match="packed samples see each other"):
        check_no_leak(model, four_samples(), ROPE)


@pytest.mark.invariant("FWD-010")
def test_under_autocast_the_probe_allows_what_its_type_rounds():
    model = tiny_model("segments")
    exact = check_no_leak(model, four_samples(), ROPE)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = packing_leak(model, four_samples(), ROPE)
        model.set_attn_implementation("sdpa")
        assert check_no_leak(model, four_samples(), ROPE) > TOLERANCE[torch.float32]
    assert exact < TOLERANCE[torch.float32] and rounded < TOLERANCE[torch.bfloat16]


@pytest.mark.invariant("FWD-010")
def test_one_sample_proves_nothing():
    with pytest.raises(ValueError, match="at least two"):
        check_no_leak(tiny_model(), [random_sample(0)], ROPE)
