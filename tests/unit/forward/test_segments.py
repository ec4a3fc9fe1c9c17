"""The project's own attention beside sdpa on the real Qwen3-VL class: equal, bounded by its forward, or refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, Qwen3VLTextConfig, StaticCache
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_causal_mask,
    create_chunked_causal_mask,
    create_sliding_window_causal_mask,
)

from coordexp.forward.segments import (
    SegmentAttentionError,
    cast_for_autocast,
    check_kernel,
    load_kernel,
    register_segments,
)
from coordexp.forward.teacher import hidden_states
from coordexp.packing.bounds import SegmentBounds
from coordexp.packing.collate import collate_packed, collate_padded
from coordexp.packing.positions import build_rope_index
from tests.plugins.tiny_qwen import (
    IMAGE_PAD,
    PAD,
    VISION_END,
    VISION_START,
    four_samples,
    random_sample,
    tiny_config,
    tiny_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordexp.encode.types import EncodedSample
    from coordexp.packing.types import PackedBatch

ROOT = Path(__file__).resolve().parents[3]
ROPE = build_rope_index(tiny_config())
register_segments()

Step = tuple[float, dict[str, torch.Tensor]]


def other_samples() -> list[EncodedSample]:
    """Other lengths, as many tokens in all as `four_samples`: a bound that stays behind fits the row, and is wrong."""
    samples = [random_sample(10, ((6, 4),), words=9, boxes=2), random_sample(11, ((2, 4),), words=4, boxes=1)]
    missing = sum(map(len, four_samples())) - sum(map(len, samples))
    samples.append(random_sample(12, (), words=missing - 1, boxes=0))
    assert sum(map(len, samples)) == sum(map(len, four_samples()))
    return samples


def score(model: torch.nn.Module, batch: PackedBatch) -> torch.Tensor:
    """A loss that every logit of the answers moves."""
    logits = model.lm_head(hidden_states(model, batch))
    rows, columns = torch.nonzero(batch.labels >= 0, as_tuple=True)
    inner = columns > 0
    return F.cross_entropy(logits[rows[inner], columns[inner] - 1], batch.labels[rows[inner], columns[inner]])


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step(model: torch.nn.Module, batch: PackedBatch) -> Step:
    model.zero_grad(set_to_none=True)
    loss = score(model, batch)
    loss.backward()
    return float(loss.detach()), gradients(model)


def assert_same_step(found: Step, expected: Step) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        atol = 1e-5 * max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=atol)


@pytest.mark.invariant("FWD-011")
@pytest.mark.parametrize("samples", [four_samples, other_samples])
@pytest.mark.parametrize("collate", [lambda s: collate_packed(s, ROPE), lambda s: collate_padded(s, ROPE, PAD)])
def test_losses_and_gradients_are_those_of_sdpa(samples: Any, collate: Any) -> None:
    batch = collate(samples())
    expected = step(tiny_model("sdpa").train(), batch)
    assert_same_step(step(tiny_model("segments").train(), batch), expected)


STATES = torch.zeros(1, 6, 8)
PADDED = torch.tensor([[0, 0, 1, 1, 1, 1]])
TEXT_ROW = torch.tensor([[0, 1, 2, 0, 1, 2]])


def filled(cache: DynamicCache, tokens: int) -> DynamicCache:
    cache.update(torch.zeros(1, 2, tokens, 8), torch.zeros(1, 2, tokens, 8), 0)
    return cache


def mask_requests() -> dict[str, Callable[[Qwen3VLTextConfig], Any]]:
    """Masks that transformers may ask for, none of which is that of one packed row."""
    two = torch.cat([STATES, STATES])

    def causal(config: Qwen3VLTextConfig, states: torch.Tensor = STATES, **options: Any) -> Any:
        given = {"attention_mask": None, "past_key_values": None, "position_ids": TEXT_ROW} | options
        return create_causal_mask(config, states, **given)

    def windowed(make: Any, **options: Any) -> Callable[[Qwen3VLTextConfig], Any]:
        def request(config: Qwen3VLTextConfig) -> Any:
            for name, value in options.items():
                setattr(config, name, value)
            return make(config, STATES, attention_mask=None, past_key_values=None, position_ids=TEXT_ROW)

        return request

    static = StaticCache(config=Qwen3VLTextConfig(num_hidden_layers=1), max_cache_len=9)
    return {
        "a row with padding": lambda config: causal(config, attention_mask=PADDED),
        "rows with padding": lambda config: causal(config, two, attention_mask=torch.cat([PADDED, PADDED.flip(1)])),
        "two packed rows": lambda config: causal(config, two, position_ids=torch.cat([TEXT_ROW, TEXT_ROW])),
        "a step after a cache": lambda config: causal(
            config, STATES[:, :1], past_key_values=filled(DynamicCache(), 5), position_ids=torch.tensor([[5]])
        ),
        "tokens after a cache": lambda config: causal(config, past_key_values=filled(DynamicCache(), 5)),
        "a cache of fixed size": lambda config: causal(config, past_key_values=static),
        "a pattern beside": lambda config: causal(config, or_mask_function=lambda b, h, q, kv: kv == 0),
        "blocks that see both ways": lambda config: causal(
            config, block_sequence_ids=torch.tensor([[0, 0, 0, 1, 1, -1]])
        ),
        "a window": windowed(create_sliding_window_causal_mask, sliding_window=2),
        "chunks": windowed(create_chunked_causal_mask, attention_chunk_size=2),
        "both ways": lambda config: create_bidirectional_mask(config, STATES, attention_mask=None),
    }


@pytest.mark.invariant("FWD-011")
@pytest.mark.parametrize("name", sorted(mask_requests()))
def test_masks_of_all_but_a_packed_row_are_those_of_sdpa(name: str) -> None:
    found = []
    for attn_impl in ("segments", "sdpa"):
        config = Qwen3VLTextConfig(num_hidden_layers=1)
        config._attn_implementation = attn_impl
        found.append(mask_requests()[name](config))
    ours, theirs = found
    assert not isinstance(ours, SegmentBounds)
    assert (ours is None and theirs is None) or torch.equal(ours, theirs)


def left_padded(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    """Prompts in one batch, each with one image of 4 x 4 patches."""
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    pixels = [random_sample(seed, ((4, 4),)).pixel_values for seed in range(len(prompts))]
    return {
        "input_ids": ids,
        "attention_mask": (ids != PAD).long(),
        "mm_token_type_ids": (ids == IMAGE_PAD).long(),
        "pixel_values": torch.cat(pixels),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * len(prompts)),
    }


def generated(model: torch.nn.Module, inputs: dict[str, torch.Tensor], **options: Any) -> Any:
    return model.generate(
        **inputs, max_new_tokens=12, min_new_tokens=12, do_sample=False, output_logits=True,
        return_dict_in_generate=True, pad_token_id=PAD, **options,
    )  # fmt: skip


@pytest.mark.invariant("FWD-011")
@pytest.mark.parametrize("cached", [True, False])
def test_generation_from_prompts_of_unequal_length_says_what_sdpa_says(cached: bool) -> None:
    image = [VISION_START] + [IMAGE_PAD] * 4 + [VISION_END]
    prompts = [[*range(20, 20 + length), *image, 40, 41] for length in (2, 17, 9)]
    said = {}
    for name in ("sdpa", "segments"):
        said[name] = generated(tiny_model(name, tied=False), left_padded(prompts), use_cache=cached)
    assert torch.equal(said["segments"].sequences, said["sdpa"].sequences)
    for ours, theirs in zip(said["segments"].logits, said["sdpa"].logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    together = torch.stack(said["segments"].logits)
    assert (together[:, 0] - together[:, 1]).abs().amax(-1).min() > 0.1, "equal logits could not tell prompts apart"
    for place, prompt in enumerate(prompts):
        inputs = left_padded([prompt])
        inputs["pixel_values"] = left_padded(prompts)["pixel_values"][16 * place : 16 * (place + 1)]
        alone = torch.stack(generated(tiny_model("segments", tied=False), inputs, use_cache=cached).logits)
        torch.testing.assert_close(alone[:, 0], together[:, place], rtol=0, atol=1e-5)


def handed_to_layers(model: torch.nn.Module, batch: PackedBatch) -> list[Any]:
    """What stands in the mask's place at each attention of the text model."""
    seen: list[Any] = []
    handles = [
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, options: seen.append(options["attention_mask"]), with_kwargs=True
        )
        for layer in model.model.language_model.layers
    ]
    model(**batch.model_inputs(), use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.invariant("FWD-012")
@torch.no_grad()
def test_all_layers_of_a_forward_share_its_bounds_and_no_two_forwards_do() -> None:
    model = tiny_model("segments")
    first, second, again = (
        handed_to_layers(model, collate_packed(samples, ROPE))
        for samples in (four_samples(), other_samples(), four_samples())
    )
    assert len(first) == len(second) == 2
    for seen, samples in ((first, four_samples()), (second, other_samples()), (again, four_samples())):
        assert all(bounds is seen[0] for bounds in seen)
        assert seen[0].lengths == [len(sample) for sample in samples]
    assert first[0] is not again[0]


@pytest.mark.invariant("FWD-012")
def test_layers_recomputed_after_another_forward_attend_within_their_own_segments() -> None:
    """The backward of the first row recomputes its layers when the second row's forward has long been run."""
    rows = [collate_packed(samples, ROPE) for samples in (four_samples(), other_samples())]
    expected = [step(tiny_model("sdpa").train(), row) for row in rows]
    model = tiny_model("segments").train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    losses = [score(model, row) for row in rows]
    for loss, wanted in zip(losses, expected, strict=True):
        model.zero_grad(set_to_none=True)
        loss.backward()
        assert_same_step((float(loss.detach()), gradients(model)), wanted)


@pytest.mark.invariant("FWD-012")
def test_a_forward_that_fails_leaves_nothing_for_the_next() -> None:
    model = tiny_model("segments").train()
    expected = step(tiny_model("sdpa").train(), collate_packed(other_samples(), ROPE))

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory, say")

    handle = model.model.language_model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory, say"):
        score(model, collate_packed(four_samples(), ROPE))
    handle.remove()
    assert_same_step(step(model, collate_packed(other_samples(), ROPE)), expected)


class Squares(TorchDispatchMode):
    """Notes results that hold a row by itself."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.seen = tokens, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, tuple | list) else [result]:
            self.seen += isinstance(item, torch.Tensor) and tuple(item.shape[-2:]) == (self.tokens, self.tokens)
        return result


@pytest.mark.invariant("FWD-013")
def test_no_tensor_of_row_by_row_exists() -> None:
    batch = collate_packed(four_samples(), ROPE)
    squares = {}
    for name in ("sdpa", "segments"):
        model = tiny_model(name).train()
        with Squares(batch.input_ids.shape[1]) as squares[name]:
            score(model, batch).backward()
    assert squares["sdpa"].seen > 0, "the check can see such a tensor"
    assert squares["segments"].seen == 0


@pytest.mark.invariant("FWD-014")
def test_dropout_is_refused_in_a_packed_row_and_left_to_sdpa_elsewhere() -> None:
    model = tiny_model("segments")
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.1
    packed = collate_packed(four_samples(), ROPE)
    model(**packed.model_inputs(), use_cache=False)
    model.train()
    with pytest.raises(SegmentAttentionError, match=r"Qwen3VLTextAttention asks for .* dropout 0\.1.*choose sdpa"):
        model(**packed.model_inputs(), use_cache=False)
    padded = collate_padded(four_samples(), ROPE, PAD).model_inputs()
    twice = [model(**padded, use_cache=False).logits for _ in range(2)]
    assert not torch.equal(*twice), "sdpa drops out"


@pytest.mark.invariant("FWD-014")
def test_a_torch_without_the_kernel_is_refused() -> None:
    def of_torch_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
        raise AssertionError

    for kernel in (None, of_torch_2_10):
        with pytest.raises(SegmentAttentionError, match=r"torch 2\.11 or later.*choose sdpa"):
            check_kernel(kernel)
    assert check_kernel(load_kernel()) is load_kernel()


@pytest.mark.invariant("FWD-015")
def test_query_key_and_value_are_of_one_type_under_autocast() -> None:
    heads = (torch.zeros(1, 4, 3, 8), torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8, dtype=torch.bfloat16))
    assert cast_for_autocast(heads) is heads
    with torch.autocast("cpu", torch.bfloat16):
        assert {part.dtype for part in cast_for_autocast(heads)} == {torch.bfloat16}
    with torch.autocast("cpu", torch.float16):
        assert {part.dtype for part in cast_for_autocast(heads)} == {torch.float16}


@pytest.mark.invariant("FWD-015")
@pytest.mark.parametrize(("weights", "autocast"), [("float32", True), ("bfloat16", False)])
@torch.no_grad()
def test_half_precision_is_that_of_sdpa(weights: str, autocast: bool) -> None:
    batch = collate_packed(four_samples(), ROPE)
    found = {}
    for name in ("sdpa", "segments"):
        model = tiny_model(name).to(getattr(torch, weights))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found[name] = hidden_states(model, batch).float()
    exact = hidden_states(tiny_model("sdpa"), batch)
    rounding = float((found["sdpa"] - exact).abs().max())
    assert 0 < float((found["segments"] - exact).abs().max()) < 2 * rounding


@pytest.mark.invariant("FWD-016")
def test_a_fresh_process_loads_a_checkpoint_under_the_name_and_saves_it_without(tmp_path: Path) -> None:
    """In the evaluation's own loader; what is saved can be loaded where nobody knows the name."""
    code = (
        "import sys; from pathlib import Path; from coordexp.evaluation.job import load_merged_model\n"
        "model = load_merged_model(Path(sys.argv[1]), 'float32', 'segments')\n"
        "parts = (model, model.model.visual, model.model.language_model)\n"
        "print({part.config._attn_implementation for part in parts})\n"
        "model.save_pretrained(sys.argv[2])\n"
    )
    checkpoint = ROOT / "fixtures/tiny-qwen3vl"
    command = [sys.executable, "-c", code, str(checkpoint), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "{'segments'}" in done.stdout.splitlines()
    assert "segments" not in (tmp_path / "config.json").read_text(encoding="utf-8")
