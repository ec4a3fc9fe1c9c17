"""A real Qwen3-VL small enough for unit tests, and encoded samples of random tokens and patches for it."""

from __future__ import annotations

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from coordexp.encode.types import IGNORE_INDEX, EncodedSample, ObjectSlots, TokenSubset, TokenType
from coordexp.forward.segments import register_segments

IMAGE_PAD, VIDEO_PAD, VISION_START, VISION_END, PAD, END = 5, 6, 7, 8, 3, 4
FIRST_TEXT, FIRST_COORD, ROWS = 10, 88, 1088
COORD_IDS = tuple(range(FIRST_COORD, ROWS))


def tiny_config(tied: bool = True) -> Qwen3VLConfig:
    """Two layers per tower, deepstack on both, interleaved mRoPE; 1000 coord ids at the end of 1,088 rows."""
    text = dict(
        vocab_size=ROWS,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
        rope_parameters=dict(rope_type="default", rope_theta=5e6, mrope_interleaved=True, mrope_section=[6, 5, 5]),
    )
    vision = dict(
        depth=2,
        hidden_size=64,
        intermediate_size=128,
        num_heads=2,
        out_hidden_size=64,
        num_position_embeddings=256,
        deepstack_visual_indexes=[0, 1],
    )
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE_PAD,
        video_token_id=VIDEO_PAD,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=tied,
    )


def tiny_model(attn_impl: str = "sdpa", tied: bool = True) -> Qwen3VLForConditionalGeneration:
    """Random float32 weights from a fixed seed, in eval mode; the head is scaled up so that logits are of order 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = Qwen3VLForConditionalGeneration(tiny_config(tied)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(8.0)
    register_segments()
    model.set_attn_implementation(attn_impl)
    return model


def random_sample(
    seed: int, grids: tuple[tuple[int, int], ...] = ((4, 6),), words: int = 6, boxes: int = 1
) -> EncodedSample:
    """Images of `grids` patches, then an answer of `words` text tokens, `boxes` of four coord tokens, an end token.

    The answer is supervised, and the first token too, so that a boundary that leaks shows in the loss.
    """
    generator = torch.Generator().manual_seed(seed)
    prompt: list[int] = []
    for height, width in grids:
        prompt += [VISION_START] + [IMAGE_PAD] * (height * width // 4) + [VISION_END]
    answer = torch.randint(FIRST_TEXT, FIRST_COORD, (words,), generator=generator).tolist()
    ids, objects = prompt + answer, []
    for _ in range(boxes):
        bins = torch.randint(0, 1000, (4,), generator=generator).tolist()
        objects.append(ObjectSlots("bbox_2d", tuple(range(len(ids), len(ids) + 4)), tuple(bins)))
        ids += [FIRST_COORD + k for k in bins]
    tokens = torch.tensor([*ids, END])
    types = torch.where(tokens >= FIRST_COORD, int(TokenType.COORD), int(TokenType.STRUCT))
    types[: len(prompt)], types[-1] = int(TokenType.OTHER), int(TokenType.EOS)
    labels = torch.where(types == TokenType.OTHER, IGNORE_INDEX, tokens)
    labels[0] = tokens[0]
    patches = sum(height * width for height, width in grids)
    return EncodedSample(
        sample_id=f"sample-{seed}",
        input_ids=tokens,
        labels=labels,
        token_types=types,
        subsets=torch.where(types == TokenType.OTHER, int(TokenSubset.NONE), int(TokenSubset.GT)),
        mm_token_type_ids=(tokens == IMAGE_PAD).long(),
        objects=tuple(objects),
        prompt_length=len(prompt),
        pixel_values=torch.randn(patches, 3 * 2 * 16 * 16, generator=generator) if grids else None,
        image_grid_thw=torch.tensor([[1, height, width] for height, width in grids]) if grids else None,
    )


def four_samples() -> list[EncodedSample]:
    """One image, two images, no image, and a small one: lengths, grids and answers all differ."""
    return [
        random_sample(0, ((4, 6),), words=5, boxes=1),
        random_sample(1, ((4, 4), (6, 4)), words=3, boxes=2),
        random_sample(2, (), words=7, boxes=1),
        random_sample(3, ((2, 2),), words=1, boxes=0),
    ]
