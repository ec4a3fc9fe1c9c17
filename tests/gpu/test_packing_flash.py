"""The packing probe on a GPU with flash attention 2: the proof that CPU machines cannot run."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from coordexp.forward.probe import check_no_leak
from coordexp.packing.positions import build_rope_index
from tests.plugins.tiny_qwen import four_samples, tiny_config, tiny_model


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="the flash-attn package is not installed")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flash_attention_keeps_packed_samples_apart(dtype):
    model = tiny_model().to("cuda", dtype)
    model.set_attn_implementation("flash_attention_2")
    check_no_leak(model, four_samples(), build_rope_index(tiny_config()))
