"""A tiny Qwen3-VL with every part of the real one: deepstack vision tower, interleaved mRoPE, tied head.

Contract ids: FWD-*.

It is what CPU tests and the quick start run on: about 3 million parameters (TinySizes), vocabulary included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coordexp.coords.codec import N_BINS, bin_to_value
from coordexp.coords.vocab import build_coord_vocab

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Qwen3VLConfig, Qwen3VLForConditionalGeneration


@dataclass(frozen=True, slots=True)
class TinySizes:
    """Widths and depths of the tiny model; `head_dim` is 32 throughout, which the mRoPE sections [6, 5, 5] fill."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    vision_hidden: int = 128
    vision_layers: int = 3
    max_positions: int = 4096


SMALLEST = TinySizes(hidden=64, layers=2, vision_hidden=64, vision_layers=2)


def build_tiny_config(
    tokenizer: PreTrainedTokenizerBase, sizes: TinySizes = TinySizes(), *, tied: bool = True
) -> Qwen3VLConfig:
    """Configuration for `tokenizer`'s vocabulary, rounded up to a multiple of 64 rows.

    Special ids (image, video, vision start and end) are looked up in the tokenizer, so any vocabulary that has them
    fits.
    """
    from transformers import Qwen3VLConfig

    ids = {
        name: int(tokenizer.convert_tokens_to_ids(f"<|{name}|>"))
        for name in ("image_pad", "video_pad", "vision_start", "vision_end", "im_end", "endoftext")
    }
    rows = -(-len(tokenizer) // 64) * 64
    text = dict(
        vocab_size=rows,
        hidden_size=sizes.hidden,
        intermediate_size=4 * sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=max(1, sizes.heads // 2),
        head_dim=32,
        max_position_embeddings=sizes.max_positions,
        tie_word_embeddings=tied,
        eos_token_id=ids["im_end"],
        pad_token_id=ids["endoftext"],
        bos_token_id=None,
        rope_parameters=dict(rope_type="default", rope_theta=5e6, mrope_interleaved=True, mrope_section=[6, 5, 5]),
    )
    vision = dict(
        depth=sizes.vision_layers,
        hidden_size=sizes.vision_hidden,
        intermediate_size=4 * sizes.vision_hidden,
        num_heads=sizes.vision_hidden // 32,
        out_hidden_size=sizes.hidden,
        num_position_embeddings=256,
        patch_size=16,
        spatial_merge_size=2,
        temporal_patch_size=2,
        deepstack_visual_indexes=[0, 1],
    )
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=tied,
    )
    config.architectures = ["Qwen3VLForConditionalGeneration"]
    return config


def build_tiny_model(
    tokenizer: PreTrainedTokenizerBase, sizes: TinySizes = TinySizes(), *, seed: int = 0, tied: bool = True
) -> Qwen3VLForConditionalGeneration:
    """A randomly initialized float32 model in eval mode; the same seed gives the same weights."""
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(build_tiny_config(tokenizer, sizes, tied=tied)).eval()
    rows = fourier_rows(sizes.hidden)
    ids = torch.tensor(build_coord_vocab(tokenizer).ids)
    with torch.no_grad():
        for end in {model.get_input_embeddings(), model.get_output_embeddings()}:
            end.weight[ids] = rows
    return model


def fourier_rows(width: int) -> torch.Tensor:
    """Rows [1000, width] of norm 1 for the coord tokens: sines and cosines of k/999 with wavelengths from 2 down to
    1/125.

    Near bins then begin with near rows, so that what is learnt at one bin serves its neighbours; with random rows
    each of the 1000 is learnt by itself.
    """
    import torch

    values = torch.tensor([bin_to_value(k) for k in range(N_BINS)], dtype=torch.float64)[:, None]
    frequencies = torch.logspace(-1, math.log2(125), width // 2, base=2.0, dtype=torch.float64)
    angles = 2 * math.pi * frequencies * values
    rows = torch.cat([angles.cos(), angles.sin()], dim=1)
    return (rows / rows.norm(dim=1, keepdim=True)).to(torch.float32)


def render_shapes_corpus() -> list[str]:
    """Every text that the drawn shapes lead to: prompts and answers in all orders.

    The cut vocabulary is made from it.
    """
    from coordexp.coordjson import FIELD_ORDERS, render_answer
    from coordexp.coords.types import CoordObject
    from coordexp.data.shapes import CATEGORIES
    from coordexp.encode.prompts import ORDERINGS, render_prompt

    objects = [CoordObject(desc, "bbox_2d", (1, 2, 3, 4)) for desc in CATEGORIES]
    texts = []
    for field_order in FIELD_ORDERS:
        texts += [render_answer(objects[:count], field_order) for count in (0, 1, 2, len(objects))]
        for ordering in ORDERINGS:
            user = render_prompt(field_order, ordering).user
            texts += [f"system\nuser\n{user}\nassistant\n", user]
    return texts


def write_tiny_checkpoint(folder: Path, sizes: TinySizes = TinySizes(), *, seed: int = 0) -> int:
    """Write an untrained model, its cut vocabulary and processor into `folder`; returns the number of parameters."""
    from coordexp.encode.processor import build_processor
    from coordexp.encode.vocabulary import build_cut_tokenizer

    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; choose a new folder, or remove it first")
    tokenizer = build_cut_tokenizer(render_shapes_corpus())
    model = build_tiny_model(tokenizer, sizes, seed=seed)
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
