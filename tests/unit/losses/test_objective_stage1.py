"""The stage-1 objective: which terms stand where, and which section of the config weights them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from coordexp.config.sections import BboxGeoConfig as BboxGeoSection
from coordexp.config.sections import CoordSoftCeW1Config, CustomConfig
from coordexp.encode.types import TokenType
from coordexp.losses.masks import Provenance
from coordexp.losses.normalizers import count_normalizers
from coordexp.losses.objective import (
    build_stage1_objective,
)
from coordexp.losses.vocab import score_hidden
from tests.unit.losses.synthetic import (
    COORD_IDS,
    collate,
    gt_sample,
    lay_out,
    random_head,
    random_states,
    run_on,
)


def stage1(**custom: object) -> CustomConfig:
    return CustomConfig(train_jsonl="x.jsonl", **custom)  # type: ignore[arg-type]


@pytest.mark.invariant("LOSS-025")
def test_stage1_puts_vocabulary_ce_on_text_and_coordinate_terms_on_coords() -> None:
    """A text state moves only CE; a coord state moves only the coordinate terms (AUDIT-6.1)."""
    soft = CoordSoftCeW1Config(enabled=True)
    sample = gt_sample(0)
    batch = collate([sample])
    for coord, silent in ((CoordSoftCeW1Config(), TokenType.COORD), (soft, None)):
        objective = build_stage1_objective(stage1(coord_soft_ce_w1=coord))
        context = objective.context(batch, Provenance.STAGE1)
        hidden = lay_out(random_states([sample])).requires_grad_()
        objective(context, score_hidden(hidden, random_head()), count_normalizers(context)).total.backward()
        moved = hidden.grad[0].abs().sum(1)[:-1] > 0
        targets = batch.token_types[0, 1:]
        expected = (targets != TokenType.OTHER) & (targets != (silent if silent is not None else -1))
        assert torch.equal(moved, expected)


@pytest.mark.invariant("LOSS-025")
def test_stage1_coord_positions_get_no_cross_entropy_over_the_vocabulary() -> None:
    """With the gate alone, the gradient at a coord position is the gate's, whatever the token is."""
    gate = CoordSoftCeW1Config(enabled=True, soft_ce_weight=0.0, w1_weight=0.0)
    sample = gt_sample(0, (2,))
    other = replace(collate([sample]))
    swapped = other.input_ids.clone()
    at = list(sample.objects[0].positions)
    swapped[0, at] = COORD_IDS[torch.tensor([(k + 7) % 1000 for k in sample.objects[0].bins])]
    gradients = []
    for ids in (other.input_ids, swapped):
        objective = build_stage1_objective(stage1(coord_soft_ce_w1=gate))
        context = objective.context(replace(other, input_ids=ids), Provenance.STAGE1)
        hidden = lay_out(random_states([sample])).requires_grad_()
        objective(context, score_hidden(hidden, random_head()), count_normalizers(context)).total.backward()
        gradients.append(hidden.grad[0, [p - 1 for p in at]])
    assert torch.equal(*gradients) and gradients[0].abs().sum() > 0


@pytest.mark.invariant("LOSS-025")
def test_stage1_coord_token_ce_is_a_term_of_its_own() -> None:
    """Switching it on adds its weighted mean and leaves the text's share and denominator alone."""
    off = CoordSoftCeW1Config(enabled=True)
    plain, more = (
        run_on(build_stage1_objective(stage1(coord_soft_ce_w1=coord)), Provenance.STAGE1)
        for coord in (off, replace(off, ce_weight=0.5))
    )
    added = float((more.total - plain.total).detach())
    assert added == pytest.approx(0.5 * more.metrics()["loss/coord_token_ce"], rel=1e-9)


@pytest.mark.invariant("LOSS-025")
def test_stage1_terms_follow_their_sections() -> None:
    everything = stage1(
        coord_soft_ce_w1=CoordSoftCeW1Config(enabled=True, ce_weight=0.1, text_gate_weight=0.1),
        bbox_geo=BboxGeoSection(enabled=True),
    )
    gate = CoordSoftCeW1Config(enabled=True, soft_ce_weight=0.0, w1_weight=0.0)
    for custom, expected in (
        (stage1(), {"loss/struct_ce", "loss/desc_ce"}),
        (
            stage1(coord_soft_ce_w1=gate),
            {"loss/struct_ce", "loss/desc_ce", "loss/coord_reg", "loss/coord_reg/coord_gate"},
        ),
        (
            everything,
            {
                "loss/struct_ce", "loss/desc_ce", "loss/coord_token_ce", "loss/coord_reg", "loss/coord_reg/soft_ce",
                "loss/coord_reg/w1", "loss/coord_reg/coord_gate", "loss/coord_reg/text_gate", "loss/geo",
                "loss/geo/smoothl1", "loss/geo/ciou",
            },
        ),
    ):  # fmt: skip
        output = run_on(build_stage1_objective(custom), Provenance.STAGE1)
        assert {key for key in output.metrics() if key.startswith("loss/")} == expected


@pytest.mark.invariant("LOSS-025")
def test_stage1_regression_values_of_a_frozen_batch() -> None:
    """Masks of a fixed synthetic row, written down by hand (REG-9.3C)."""
    batch = collate([gt_sample(11, (2,), prompt=2), gt_sample(12, (), prompt=2)])
    context = build_stage1_objective(stage1(desc_ce_weight=2.0)).context(batch, Provenance.STAGE1)
    row = "".join(".SDCE"[kind] for kind in batch.token_types[0].tolist())
    targets = [position + 1 for position in context.predict.tolist()]
    assert [row[p] for p in targets] == [letter for letter in row if letter in "SDE"]
    assert [w for p, w in zip(targets, context.weight.tolist(), strict=True) if row[p] == "D"] == [2.0] * row.count("D")
    assert [p + 1 for p in context.slot_predict.tolist()] == [p for p, letter in enumerate(row) if letter == "C"]
