"""`custom.coord_offset` followed to where it acts: parameters, optimizer groups, and what a run leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from coordexp.config import load_config

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16


def build(kit: Stage1Kit, name: str, model: str = "float32", **offsets: Any) -> Any:
    from coordexp.training.stage1 import build_stage1

    path = kit.write(name, model={"torch_dtype": model}, custom={"coord_offset": {"enabled": True, **offsets}})
    return build_stage1(load_config(path))


def offsets_of(trainer: Any) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in trainer.model.named_parameters() if "coord_offset" in name}


@pytest.mark.invariant("TRAIN-005")
@pytest.mark.parametrize(
    ("written", "model", "expected"),
    [("float32", "bfloat16", FLOAT32), ("bfloat16", "float32", BFLOAT16), ("auto", "bfloat16", FLOAT32)],
)
def test_offsets_have_the_dtype_that_is_written(
    stage1_kit: Stage1Kit, written: str, model: str, expected: torch.dtype
) -> None:
    trainer = build(stage1_kit, f"dtype_{written}_{model}", model=model, dtype=written)
    found = offsets_of(trainer)
    assert {p.dtype for p in found.values()} == {expected} and len(found) == 1


@pytest.mark.invariant("TRAIN-005")
@pytest.mark.parametrize("tied", [True, False])
def test_offsets_have_groups_of_their_own_with_rate_and_decay(stage1_kit: Stage1Kit, tied: bool) -> None:
    knobs = {"tie_head": tied, "embed_lr": 0.0, "head_lr": 3e-3, "weight_decay": 0.25}
    trainer = build(stage1_kit, f"groups_{tied}", **knobs)
    groups = {id(p): group for group in trainer.create_optimizer().param_groups for p in group["params"]}
    found = {name.rsplit(".", 1)[-1]: groups[id(p)] for name, p in offsets_of(trainer).items()}
    rates = {name: (group["lr"], group["weight_decay"], len(group["params"])) for name, group in found.items()}
    expected = {"embed_offset": (0.0, 0.25, 1)} | ({} if tied else {"own_head_offset": (3e-3, 0.25, 1)})
    assert rates == expected
    base = {id(trainer.model.get_input_embeddings().weight), id(trainer.model.get_output_embeddings().weight)}
    assert not base & groups.keys(), "base rows keep their bits"


@pytest.mark.invariant("TRAIN-005")
def test_a_rate_of_0_keeps_the_embeddings_offsets_where_they_are(stage1_kit: Stage1Kit) -> None:
    from coordexp.training.trainer import train_to_end

    knobs = {"tie_head": False, "embed_lr": 0.0, "head_lr": 1e-2}
    trainer = build(stage1_kit, "rate_0", **knobs)
    before = trainer.model.get_input_embeddings().weight.detach().clone()
    saved = load_file(train_to_end(trainer).checkpoint / "model.safetensors")
    assert torch.equal(saved["model.language_model.embed_tokens.weight"], before)
    first, last = stage1_kit.coord_range()
    moved = (saved["lm_head.weight"] - before).abs().amax(dim=1)
    assert moved[first : last + 1].max() > 1e-3 and not moved[:first].any() and not moved[last + 1 :].any()


@pytest.mark.invariant("TRAIN-010")
def test_a_merged_model_in_bfloat16_scores_as_the_trained_one(stage1_kit: Stage1Kit) -> None:
    from transformers import Qwen3VLForConditionalGeneration

    from coordexp.training.trainer import train_to_end

    trainer = build(stage1_kit, "merged_bf16", model="bfloat16", dtype="float32", embed_lr=0.5)
    folder = train_to_end(trainer).checkpoint
    live = trainer.model.eval()
    (offset,) = offsets_of(trainer).values()
    assert offset.dtype == FLOAT32 and offset.abs().max() > 0.1
    merged = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=BFLOAT16).eval()
    ids = torch.arange(merged.config.text_config.vocab_size)[None, -200:]
    with torch.no_grad():
        assert torch.equal(merged.get_input_embeddings()(ids), live.get_input_embeddings()(ids))
        expected = live(input_ids=ids, use_cache=False).logits
        found = merged(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.abs().max()))
