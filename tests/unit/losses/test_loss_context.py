"""Positions: who predicts whom, and which coord slots and boxes are supervised."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from coordexp.encode.types import IGNORE_INDEX, ObjectSlots, TokenSubset, TokenType
from coordexp.losses.context import build_context
from coordexp.losses.masks import Provenance
from coordexp.packing.types import PackedBatch
from tests.unit.losses.synthetic import COORD_IDS, collate, gt_sample, mask_weights, rollout_sample

ALL_CE = mask_weights(coord_ce=1.0)


@pytest.mark.invariant("LOSS-002")
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_a_token_is_predicted_one_position_earlier_in_its_row(packed: bool) -> None:
    batch = collate([gt_sample(0), gt_sample(1, (2, 3)), gt_sample(2, ())], packed)
    context = build_context(batch, Provenance.STAGE1, ALL_CE)
    flat = batch.input_ids.flatten()
    assert torch.equal(flat[context.predict + 1], context.target)
    width = batch.input_ids.shape[1]
    for position in context.predict.tolist():
        row, p = divmod(position, width)
        assert any(s.row == row and s.start <= p and p + 1 < s.end for s in batch.segments)


@pytest.mark.invariant("LOSS-002")
def test_the_first_token_of_a_segment_is_nobodys_target() -> None:
    samples = [gt_sample(0, prompt=0), gt_sample(1, prompt=0)]
    batch = collate(samples)
    context = build_context(batch, Provenance.STAGE1, ALL_CE)
    targets = (context.predict + 1).tolist()
    firsts = {segment.start for segment in batch.segments}
    assert not firsts & set(targets)
    assert len(targets) == sum(len(s.ids) - 1 for s in samples)


@pytest.mark.invariant("LOSS-002")
def test_the_prompt_is_not_supervised_but_predicts_the_first_answer_token() -> None:
    sample = gt_sample(0, prompt=4)
    context = build_context(collate([sample]), Provenance.STAGE1, ALL_CE)
    assert context.predict.min() == 3
    assert context.predict.shape[0] == len(sample.ids) - 4


@pytest.mark.invariant("LOSS-002")
def test_tokens_with_an_ignored_label_are_left_out() -> None:
    batch = collate([gt_sample(0)])
    struct_at = int(torch.nonzero(batch.token_types[0] == TokenType.STRUCT)[0])
    labels = batch.labels.clone()
    labels[0, struct_at] = IGNORE_INDEX
    before = build_context(batch, Provenance.STAGE1, ALL_CE)
    after = build_context(dataclasses.replace(batch, labels=labels), Provenance.STAGE1, ALL_CE)
    assert set(before.predict.tolist()) - set(after.predict.tolist()) == {struct_at - 1}


@pytest.mark.invariant("LOSS-004")
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_slots_are_the_coord_tokens_of_ground_truth_in_order(packed: bool) -> None:
    batch = collate([gt_sample(0), gt_sample(1, (4, 2))], packed)
    context = build_context(batch, Provenance.STAGE1, mask_weights())
    read = batch.input_ids.flatten()[context.slot_predict + 1]
    assert torch.equal(read, COORD_IDS[context.slot_bins])
    assert context.slot_bins.tolist() == [k for item in batch.objects for k in item.bins]


@pytest.mark.invariant("LOSS-004")
def test_boxes_hold_their_own_slots_and_polygons_are_no_boxes() -> None:
    batch = collate([gt_sample(0, (2, 4, 2)), gt_sample(1, (3, 2))])
    context = build_context(batch, Provenance.STAGE1, mask_weights())
    expected = [item.bins for item in batch.objects if item.kind == "bbox_2d"]
    assert [tuple(box) for box in context.slot_bins[context.boxes].tolist()] == expected
    assert len(expected) == 3


@pytest.mark.invariant("LOSS-004")
def test_rollout_slots_are_matched_and_injected_objects_only() -> None:
    sample = rollout_sample(0)
    context = build_context(collate([sample]), Provenance.B, mask_weights())
    kept = [item for item in sample.objects if item.subset in (TokenSubset.MATCHED, TokenSubset.FN)]
    assert len(kept) == 4 < len(sample.objects)
    assert (context.slot_predict + 1).tolist() == [p for item in kept for p in item.positions]
    assert context.slot_bins.tolist() == [k for item in kept for k in item.bins]


@pytest.mark.invariant("LOSS-004")
def test_slots_are_kept_where_labels_are_ignored_on_coord_tokens() -> None:
    batch = collate([gt_sample(0)])
    labels = torch.where(batch.token_types == TokenType.COORD, IGNORE_INDEX, batch.labels)
    context = build_context(dataclasses.replace(batch, labels=labels), Provenance.STAGE1, mask_weights())
    assert context.slot_bins.shape[0] == 8


@pytest.mark.invariant("LOSS-004")
def test_rows_hold_every_slot_and_every_token_once() -> None:
    batch = collate([rollout_sample(0), rollout_sample(1, ())])
    for weights in (mask_weights(), ALL_CE):
        context = build_context(batch, Provenance.B, weights)
        assert torch.equal(context.rows[context.slot_rows], context.slot_predict)
        assert torch.equal(context.rows[: context.predict.shape[0]], context.predict)
        assert context.rows.unique().shape == context.rows.shape


@pytest.mark.invariant("LOSS-004")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": (0, 7, 8, 9)}, "row 0, position 0: a coord slot must be a supervised coord token"),
        ({"positions": (4, 7, 8, 9)}, "row 0, position 4: a coord slot must be"),
        ({"bins": (1, 2, 3)}, "one bin in 0..999 per position, four for a bbox_2d"),
        ({"bins": (1, 2, 3, 1000)}, "one bin in 0..999"),
        ({"bins": (1, 2, 3), "positions": (7, 8, 9)}, "four for a bbox_2d"),
    ],
)
def test_slots_that_nothing_predicts_are_refused(change: dict[str, tuple[int, ...]], message: str) -> None:
    batch: PackedBatch = collate([gt_sample(0)])
    broken: ObjectSlots = dataclasses.replace(batch.objects[0], **change)
    with pytest.raises(ValueError, match=message):
        build_context(dataclasses.replace(batch, objects=(broken,)), Provenance.STAGE1, mask_weights())


@pytest.mark.invariant("LOSS-004")
def test_a_context_moves_with_all_its_views() -> None:
    context = build_context(collate([gt_sample(0)]), Provenance.STAGE1, mask_weights())
    moved = context.to("meta")
    assert {f.name for f in dataclasses.fields(moved) if isinstance(getattr(moved, f.name), torch.Tensor)} == {
        "token_types", "token_subsets", "predict", "target", "types", "weight", "slot_predict", "slot_bins", "boxes",
        "rows", "slot_rows",
    }  # fmt: skip
    assert moved.rows.device.type == "meta"
