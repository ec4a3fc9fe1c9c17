"""The modules of a Qwen3-VL by name, and which of them a tuner key means to peft. Contract ids: CONFIG-024.

In: depths, or a name or pattern as written in `tuner`; out: dotted module names. A test compares them with the class.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

Kind = Literal["linear", "embedding", "conv", "norm", "other"]
EMBEDDING = "model.language_model.embed_tokens"
HEAD = "lm_head"
ADAPTABLE: tuple[Kind, ...] = ("linear", "embedding", "conv")
"""Kinds that peft can put an adapter on."""


@dataclass(frozen=True, slots=True)
class Depths:
    """Numbers of text layers, vision blocks and deepstack mergers. The defaults hold any Qwen3-VL."""

    text: int = 128
    vision: int = 64
    mergers: int = 8


ANY_DEPTH = Depths()
_TEXT_LAYER: dict[str, Kind] = {
    "": "other",
    ".self_attn": "other",
    ".self_attn.q_proj": "linear",
    ".self_attn.k_proj": "linear",
    ".self_attn.v_proj": "linear",
    ".self_attn.o_proj": "linear",
    ".self_attn.q_norm": "norm",
    ".self_attn.k_norm": "norm",
    ".mlp": "other",
    ".mlp.gate_proj": "linear",
    ".mlp.up_proj": "linear",
    ".mlp.down_proj": "linear",
    ".mlp.act_fn": "other",
    ".input_layernorm": "norm",
    ".post_attention_layernorm": "norm",
}
_VISION_BLOCK: dict[str, Kind] = {
    "": "other",
    ".norm1": "norm",
    ".norm2": "norm",
    ".attn": "other",
    ".attn.qkv": "linear",
    ".attn.proj": "linear",
    ".mlp": "other",
    ".mlp.linear_fc1": "linear",
    ".mlp.act_fn": "other",
    ".mlp.linear_fc2": "linear",
}
_MERGER: dict[str, Kind] = {
    "": "other",
    ".norm": "norm",
    ".linear_fc1": "linear",
    ".act_fn": "other",
    ".linear_fc2": "linear",
}
_ONCE: dict[str, Kind] = {
    "model": "other",
    "model.visual": "other",
    "model.visual.patch_embed": "other",
    "model.visual.patch_embed.proj": "conv",
    "model.visual.pos_embed": "embedding",
    "model.visual.rotary_pos_emb": "other",
    "model.visual.blocks": "other",
    "model.visual.deepstack_merger_list": "other",
    "model.language_model": "other",
    EMBEDDING: "embedding",
    "model.language_model.layers": "other",
    "model.language_model.norm": "norm",
    "model.language_model.rotary_emb": "other",
    HEAD: "linear",
}


@lru_cache(maxsize=8)
def module_kinds(depths: Depths = ANY_DEPTH) -> Mapping[str, Kind]:
    """Every module of a Qwen3-VL of these depths, by dotted name, with its kind; the model itself is left out."""
    return MappingProxyType(dict(_modules(depths)))


def _modules(depths: Depths) -> Iterator[tuple[str, Kind]]:
    yield from _ONCE.items()
    repeated = (
        ("model.language_model.layers.", depths.text, _TEXT_LAYER),
        ("model.visual.blocks.", depths.vision, _VISION_BLOCK),
        ("model.visual.deepstack_merger_list.", depths.mergers, _MERGER),
    )
    for prefix, count, parts in repeated:
        for index in range(count):
            yield from ((f"{prefix}{index}{part}", kind) for part, kind in parts.items())
    yield from ((f"model.visual.merger{part}", kind) for part, kind in _MERGER.items())


def all_linear(frozen: Collection[str], modules: Mapping[str, Kind]) -> list[str]:
    """Modules that ms-swift takes `all-linear` for: linear layers of what is not frozen (`llm`, `vit`, `aligner`)."""
    linear = (module for module, kind in modules.items() if kind == "linear" and module != HEAD)
    return [module for module in linear if part_of(module) not in frozen]


def part_of(module: str) -> str:
    """The part of the model that a layer is of: `llm`, `vit` or `aligner`."""
    if not module.startswith("model.visual."):
        return "llm"
    return "aligner" if module.startswith(("model.visual.merger", "model.visual.deepstack_merger_list")) else "vit"


def targets_of(name: str, modules: Mapping[str, Kind]) -> list[str]:
    """Modules that peft takes an entry of `target_modules` for: the name itself, or any that ends in `.name`."""
    return [module for module in modules if module == name or module.endswith(f".{name}")]


def targets_of_pattern(pattern: re.Pattern[str], modules: Mapping[str, Kind]) -> list[str]:
    """Modules that peft takes `target_regex` for: those whose whole name it matches."""
    return [module for module in modules if pattern.fullmatch(module)]


def saved_by(name: str, modules: Mapping[str, Kind]) -> list[str]:
    """Modules that peft takes an entry of `modules_to_save` for: those whose name ends in it, in mid-word too."""
    if name == "all-embedding":
        return [module for module, kind in modules.items() if kind == "embedding"]
    if name == "all-norm":
        return [module for module, kind in modules.items() if kind == "norm"]
    return [module for module in modules if module.endswith(name)]


def ends_within(found: Collection[str]) -> list[str]:
    """The ends of the model, `embed_tokens` and `lm_head`, that are one of these modules or part of one."""
    return [end.rpartition(".")[2] for end in (EMBEDDING, HEAD) if is_within(end, found)]


def is_within(module: str, others: Iterable[str]) -> bool:
    """Whether a module is one of the others or part of one."""
    return any(module == other or module.startswith(f"{other}.") for other in others)
