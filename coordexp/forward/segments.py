"""Attention for packed rows that costs the square of each sample, not of the row. Contract ids: FWD-011..FWD-014.

transformers asks a mask function, once a forward, what to hand to every layer. For a packed row `segments` hands on the
row's `SegmentBounds` in the mask's place: they travel with the calls, into recomputed layers too, and no forward sees
another's. Whatever else comes (padding, a cache, another pattern) gets sdpa's mask and sdpa's attention.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from coordexp.bridges.vision_bounds import SEGMENTS, install_image_bounds
from coordexp.packing.bounds import SegmentBounds, find_bounds

Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Query, key and value, [1, heads, T, D] each; key and value may have fewer heads."""

KERNEL_TYPES = (torch.bfloat16, torch.float16)
KERNEL_OPTIONS = frozenset({"scale", "window_size"})


class SegmentAttentionError(ValueError):
    """`segments` cannot attend as the model or the machine asks."""


def register_segments() -> None:
    """Make `segments` a name that transformers and ms-swift load models with: before loading; again is harmless.

    Without the mask function of the same name transformers builds no mask at all, and padding is attended to.
    """
    AttentionInterface.register(SEGMENTS, segment_attention)
    AttentionMaskInterface.register(SEGMENTS, segment_mask)
    install_image_bounds()


def segment_mask(**request: Any) -> SegmentBounds | torch.Tensor | None:
    """transformers' mask interface: the bounds of one packed row, sdpa's mask for everything else."""
    bounds = None
    if is_one_row(request):
        bounds = find_bounds(request["mask_function"], request["q_length"], request["device"])
    return sdpa_mask(**request) if bounds is None else bounds


def is_one_row(request: dict[str, Any]) -> bool:
    """Whether a mask is that of a single row without padding, cache, window, or a pattern that takes vmap."""
    return (
        request["batch_size"] == 1
        and request["attention_mask"] is None
        and request["q_length"] == request["kv_length"]
        and int(request["q_offset"]) == 0
        and request.get("local_size") is None
        and not request["use_vmap"]
    )


def segment_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: SegmentBounds | torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: [B, heads, T, D] → [B, T, heads, D].

    A row's bounds come in the mask's place, those of images from the vision tower; without either it is sdpa.
    Raises SegmentAttentionError for dropout, and on a GPU for a torch without the kernel.
    """
    if isinstance(attention_mask, SegmentBounds):
        bounds, causal = attention_mask, True
    elif "cu_seq_lens_q" in options:
        bounds, causal = SegmentBounds(options["cu_seq_lens_q"], options["max_length_q"]), False
    else:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if options["dropout"]:
        raise SegmentAttentionError(
            f"{type(module).__name__} asks for attention dropout {options['dropout']}, and model.attn_impl "
            f"{SEGMENTS!r} has none: set attention_dropout to 0 in the checkpoint's config.json, or choose sdpa"
        )
    heads = cast_for_autocast((query, key, value))
    attend = attend_in_one_call if query.is_cuda and heads[0].dtype in KERNEL_TYPES else attend_one_by_one
    return attend(heads, bounds, causal, options["scaling"]), None


def cast_for_autocast(heads: Heads) -> Heads:
    """The same in autocast's type where it is on: torch casts for sdpa by itself, but not for the varlen kernel.

    The norms of query and key give float32 under autocast, where value is in half precision.
    """
    kind = heads[0].device.type
    if not torch.is_autocast_enabled(kind):
        return heads
    query, key, value = (part.to(torch.get_autocast_dtype(kind)) for part in heads)
    return query, key, value


def attend_one_by_one(heads: Heads, bounds: SegmentBounds, causal: bool, scale: float) -> torch.Tensor:
    """[1, T, heads, D], one sdpa call a segment: on a CPU, and in float32."""
    grouped = heads[0].shape[1] != heads[1].shape[1]
    segments = zip(*(part.split(bounds.lengths, 2) for part in heads), strict=True)
    attended = [
        F.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale, enable_gqa=grouped)
        for query, key, value in segments
    ]
    return torch.cat([states.transpose(1, 2) for states in attended], 1)


def attend_in_one_call(heads: Heads, bounds: SegmentBounds, causal: bool, scale: float) -> torch.Tensor:
    """[1, T, heads, D] by torch's varlen kernel: in half precision on a GPU."""
    kernel = load_kernel()
    query, key, value = (part[0].transpose(0, 1).contiguous() for part in heads)
    options: dict[str, Any] = {"scale": scale, "window_size": (-1, 0) if causal else (-1, -1)}
    groups = query.shape[1] // key.shape[1]
    if "enable_gqa" in inspect.signature(kernel).parameters:
        options["enable_gqa"] = groups > 1
    elif groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    starts, longest = bounds.starts, bounds.longest
    attended: torch.Tensor = kernel(query, key, value, starts, starts, longest, longest, **options)
    return attended[None]


@cache
def load_kernel() -> Callable[..., Any]:
    """torch's varlen attention, checked; imported when a GPU first needs it."""
    name = "torch.nn.attention.varlen"
    return check_kernel(import_module("torch.nn.attention.varlen").varlen_attn if find_spec(name) else None)


def check_kernel(kernel: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return the kernel when it takes a scale and a window (torch 2.11 and later), or raise SegmentAttentionError."""
    if kernel is None or not inspect.signature(kernel).parameters.keys() >= KERNEL_OPTIONS:
        raise SegmentAttentionError(
            f"model.attn_impl {SEGMENTS!r} needs torch.nn.attention.varlen with {' and '.join(sorted(KERNEL_OPTIONS))} "
            f"on a GPU, which torch {torch.__version__} lacks: install torch 2.11 or later (requirements/gpu.txt), or "
            f"choose sdpa"
        )
    return kernel
