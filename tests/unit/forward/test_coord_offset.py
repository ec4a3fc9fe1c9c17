"""The coord-offset adapter: what it changes and leaves alone, its optimizer groups, files and merged export."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import peft
import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from coordexp.forward.coord_offset import coord_offset_groups, coord_offset_of, install_coord_offset
from coordexp.forward.coord_offset_files import export_merged, load_coord_offset, merged_state_dict, save_coord_offset
from coordexp.forward.head import install_vocabulary_head, output_head
from coordexp.forward.teacher import hidden_states, teacher_forward
from coordexp.packing.collate import collate_packed
from coordexp.packing.positions import build_rope_index
from tests.plugins.tiny_qwen import COORD_IDS, FIRST_COORD, four_samples, random_sample, tiny_config, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

ROPE = build_rope_index(tiny_config())
BOTH = pytest.mark.parametrize(("tied", "tie_head"), [(True, True), (True, False), (False, True), (False, False)])


def batch():
    return collate_packed(four_samples(), ROPE)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch().model_inputs(), use_cache=False).logits


def adapted(tied: bool = True, tie_head: bool = True, *, trained: bool = True) -> Qwen3VLForConditionalGeneration:
    """A tiny model with the adapter; `trained` gives the offsets values of the size of the base rows."""
    model = tiny_model(tied=tied)
    install_vocabulary_head(model)
    adapter = install_coord_offset(model, COORD_IDS, tie_head=tie_head)
    if trained:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            for parameter in adapter.parameters():
                parameter.normal_(std=0.1)
    return model


def train(model: torch.nn.Module, groups: list[dict[str, object]], steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(groups)
    head = output_head(model, COORD_IDS)
    for _ in range(steps):
        (loss,) = teacher_forward(
            model,
            batch(),
            head,
            lambda hidden, head: (-head.coord_logits(hidden).log_softmax(-1)[..., 3].mean(),),
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.invariant("FWD-005")
@BOTH
def test_a_fresh_adapter_changes_no_bit_of_the_output(tied, tie_head):
    expected = logits(tiny_model(tied=tied))
    assert torch.equal(logits(adapted(tied, tie_head, trained=False)), expected)


@pytest.mark.invariant("FWD-005")
@BOTH
def test_training_moves_offsets_and_leaves_every_base_row_bit_for_bit(tied, tie_head):
    model = adapted(tied, tie_head, trained=False)
    ends = {"embedding": model.get_input_embeddings().weight, "head": model.lm_head.weight}
    before = {name: weight.detach().clone() for name, weight in ends.items()}
    others = [p for name, p in model.named_parameters() if p.requires_grad and "coord_offset" not in name]
    train(model, [*coord_offset_groups(model, embed_lr=1e-2, head_lr=1e-2), {"params": others, "lr": 1e-3}])
    assert all(torch.equal(ends[name], before[name]) for name in ends)
    adapter = coord_offset_of(model)
    assert adapter.head_offset.abs().max() > 1e-3 and adapter.embed_offset.abs().max() > 1e-3
    assert (adapter.head_offset is adapter.embed_offset) == tie_head


@pytest.mark.invariant("FWD-005")
def test_only_coord_tokens_get_another_embedding_and_only_coord_columns_another_score():
    model, base = adapted(tie_head=False), tiny_model()
    ids = torch.arange(1088)[None]
    difference = (model.get_input_embeddings()(ids) - base.get_input_embeddings()(ids)).abs().amax(-1)[0]
    assert torch.equal(difference > 0, ids[0] >= FIRST_COORD)
    hidden = torch.randn(5, 64)
    changed = (model.lm_head(hidden) != base.lm_head(hidden)).any(0)
    assert torch.equal(changed, ids[0] >= FIRST_COORD)


@pytest.mark.invariant("FWD-005")
def test_both_ends_send_gradient_into_a_shared_offset_and_each_into_its_own():
    model = adapted(tie_head=False)
    hidden = hidden_states(model, batch())
    hidden.square().sum().backward()
    adapter = coord_offset_of(model)
    assert adapter.embed_offset.grad.abs().max() > 0 and adapter.own_head_offset.grad is None
    output_head(model, COORD_IDS).logits(hidden.detach()).square().sum().backward()
    assert adapter.own_head_offset.grad.abs().max() > 0


@pytest.mark.invariant("FWD-005")
def test_a_batch_without_coord_tokens_still_gives_the_offsets_a_gradient_of_zero():
    """Under DDP a parameter without gradient stops the run."""
    model = adapted()
    hidden_states(model, collate_packed([random_sample(2, (), boxes=0)], ROPE)).sum().backward()
    gradient = coord_offset_of(model).embed_offset.grad
    assert gradient is not None and not gradient.any()


@pytest.mark.invariant("FWD-005")
def test_a_deep_copy_of_the_model_trains_its_own_offsets():
    model = adapted()
    twin = copy.deepcopy(model)
    before = logits(model)
    with torch.no_grad():
        coord_offset_of(twin).embed_offset.zero_()
    assert torch.equal(logits(model), before)
    assert torch.equal(logits(twin), logits(tiny_model()))


@pytest.mark.invariant("FWD-005")
def test_generation_uses_the_offsets():
    model = adapted()
    with torch.no_grad():
        coord_offset_of(model).embed_offset[3] += 10 * torch.nn.functional.normalize(torch.ones(64), dim=0)
    sample = random_sample(2, (), boxes=0)
    inputs = {"input_ids": sample.input_ids[None], "attention_mask": torch.ones(1, len(sample), dtype=torch.long)}
    step = model.generate(**inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True)
    alone = collate_packed([sample], ROPE)
    with torch.no_grad():
        expected = output_head(model, COORD_IDS).logits(hidden_states(model, alone)[:, -1])
    torch.testing.assert_close(step.logits[0], expected, rtol=0, atol=1e-4)


@pytest.mark.invariant("FWD-006")
def test_a_shared_offset_is_one_group_at_embed_lr():
    model = adapted()
    groups = coord_offset_groups(model, embed_lr=1e-3, head_lr=5e-3, weight_decay=0.1)
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [
        ("coord_offset_embed", 1e-3, 0.1)
    ]
    assert groups[0]["params"] == [coord_offset_of(model).embed_offset]


@pytest.mark.invariant("FWD-006")
def test_own_offsets_are_two_groups_with_their_learning_rates():
    model = adapted(tie_head=False)
    groups = coord_offset_groups(model, embed_lr=1e-3, head_lr=5e-3)
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [
        ("coord_offset_embed", 1e-3, 0.0),
        ("coord_offset_head", 5e-3, 0.0),
    ]
    adapter = coord_offset_of(model)
    assert groups[0]["params"][0] is adapter.embed_offset and groups[1]["params"][0] is adapter.own_head_offset


@pytest.mark.invariant("FWD-006")
def test_a_base_weight_that_was_unfrozen_is_refused():
    model = adapted(tied=False)
    model.lm_head.weight.requires_grad_(True)
    with pytest.raises(ValueError, match="the base head would train beside the coord offsets"):
        coord_offset_groups(model, embed_lr=1e-3, head_lr=1e-3)


@pytest.mark.invariant("FWD-006")
def test_a_model_without_the_adapter_has_no_groups():
    with pytest.raises(ValueError, match="no coord-offset adapter"):
        coord_offset_groups(tiny_model(), embed_lr=1e-3, head_lr=1e-3)


@pytest.mark.invariant("FWD-006")
def test_the_adapter_trains_inside_peft():
    model = peft.get_peft_model(tiny_model(), peft.LoraConfig(target_modules=["q_proj"], r=2))
    install_vocabulary_head(model)
    install_coord_offset(model, COORD_IDS, tie_head=True)
    trainable = {name.split("base_model.model.")[-1] for name, p in model.named_parameters() if p.requires_grad}
    assert "coord_offset.embed_offset" in trainable
    assert all("lora_" in name or "coord_offset" in name for name in trainable)
    train(model, coord_offset_groups(model, embed_lr=1e-2, head_lr=1e-2), steps=1)
    assert coord_offset_of(model).embed_offset.abs().max() > 1e-3


@pytest.mark.invariant("FWD-006")
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 2], "distinct and inside 0..1087"),
        ([5, 2000], "distinct and inside 0..1087"),
        ([-1, 3], "distinct and inside"),
    ],
)
def test_ids_that_repeat_or_leave_the_vocabulary_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        install_coord_offset(tiny_model(), ids, tie_head=True)


@pytest.mark.invariant("FWD-006")
def test_a_second_adapter_and_a_wrapped_head_are_refused():
    with pytest.raises(ValueError, match="installed already"):
        install_coord_offset(adapted(), COORD_IDS, tie_head=True)
    wrapped = peft.get_peft_model(tiny_model(tied=False), peft.LoraConfig(target_modules=["lm_head"]))
    with pytest.raises(ValueError, match=r"take embed_tokens and lm_head out of tuner\.target_modules"):
        install_coord_offset(wrapped, COORD_IDS, tie_head=True)


@pytest.mark.invariant("FWD-007")
@BOTH
def test_a_saved_adapter_reloads_bit_for_bit_on_the_same_base(tmp_path, tied, tie_head):
    model = adapted(tied, tie_head)
    save_coord_offset(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coord_offset.json", "coord_offset.safetensors"]
    fresh = tiny_model(tied=tied)
    adapter = load_coord_offset(fresh, tmp_path)
    assert adapter.tie_head == tie_head and tuple(adapter.coord_ids.tolist()) == COORD_IDS
    assert torch.equal(logits(fresh), logits(model))


@pytest.mark.invariant("FWD-007")
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"width": 64', '"width": 32', "offsets of width 32 do not fit a model of width 64"),
        ('"schema_version": 1', '"schema_version": 2', "schema_version 2; this version reads 1"),
    ],
)
def test_adapter_files_that_do_not_fit_are_refused(tmp_path, old, new, message):
    save_coord_offset(adapted(), tmp_path)
    path = tmp_path / "coord_offset.json"
    path.write_text(path.read_text().replace(old, new))
    fresh = tiny_model()
    with pytest.raises(ValueError, match=message):
        load_coord_offset(fresh, tmp_path)
    assert coord_offset_of(fresh) is None


@pytest.mark.invariant("FWD-008")
@BOTH
def test_a_merged_export_reloads_with_the_same_logits_on_every_row(tmp_path, tied, tie_head):
    model = adapted(tied, tie_head)
    expected = logits(model)
    base = logits(tiny_model(tied=tied))
    assert (expected - base)[..., FIRST_COORD:].abs().amax((0, 1)).min() > 1e-3, "every coord column has moved"
    export_merged(model, tmp_path)
    reloaded = reload(tmp_path)
    torch.testing.assert_close(logits(reloaded), expected, rtol=0, atol=1e-5)
    assert (reloaded.lm_head.weight is reloaded.get_input_embeddings().weight) == (tied and tie_head)
    assert reloaded.config.tie_word_embeddings == (tied and tie_head)


@pytest.mark.invariant("FWD-008")
def test_a_merged_bfloat16_export_scores_with_the_rows_it_was_trained_with(tmp_path):
    model = adapted().to(torch.bfloat16)
    export_merged(model, tmp_path)
    assert torch.equal(
        output_head(reload(tmp_path, torch.bfloat16), COORD_IDS).coord_rows(),
        output_head(model, COORD_IDS).coord_rows(),
    )


@pytest.mark.invariant("FWD-008")
@BOTH
def test_exporting_leaves_the_live_model_as_it_was(tmp_path, tied, tie_head):
    model = adapted(tied, tie_head)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_merged(model, tmp_path)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert model.config.tie_word_embeddings == tied and model.config.text_config.tie_word_embeddings == tied


@pytest.mark.invariant("FWD-008")
def test_merged_weights_have_the_names_of_a_plain_checkpoint_and_other_rows_keep_their_bits():
    model, base = adapted(), tiny_model()
    merged = merged_state_dict(model)
    assert merged.keys() == base.state_dict().keys()
    assert torch.equal(merged["lm_head.weight"][:FIRST_COORD], base.lm_head.weight[:FIRST_COORD])
    assert not torch.equal(merged["lm_head.weight"][FIRST_COORD:], base.lm_head.weight[FIRST_COORD:])


@pytest.mark.invariant("FWD-008")
def test_unmerged_peft_layers_are_refused_and_merged_ones_are_exported(tmp_path):
    wrapped = peft.get_peft_model(
        tiny_model(), peft.LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)
    )
    adapter = install_coord_offset(wrapped, COORD_IDS, tie_head=True)
    with torch.no_grad():
        adapter.embed_offset.normal_(std=0.1)
    with pytest.raises(ValueError, match=r"call merge_and_unload\(\) first"):
        export_merged(wrapped, tmp_path)
    expected = logits(wrapped)
    export_merged(wrapped.merge_and_unload(), tmp_path)
    torch.testing.assert_close(logits(reload(tmp_path)), expected, rtol=0, atol=1e-5)


def reload(directory: Path, dtype: torch.dtype = torch.float32) -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration.from_pretrained(directory, dtype=dtype).eval()
