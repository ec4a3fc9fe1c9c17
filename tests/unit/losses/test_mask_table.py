"""Every cell of the mask table, through the context that modules see."""

from __future__ import annotations

import pytest
import torch

from coordexp.encode.types import TokenSubset, TokenType
from coordexp.losses.context import build_context
from coordexp.losses.masks import ContextKind, Provenance, weight_table
from coordexp.losses.specs.types import MaskWeights
from coordexp.spec import check, contracts_root, read_yaml
from tests.unit.losses.synthetic import PREFIX, Sample, collate, gt_sample, mask_weights, rollout_sample

# Distinct, and none of them 0 or 1, so that no cell can hold another's weight unseen.
VALUES = {
    "desc_ce_weight": 1.7,
    "self_context_struct_ce_weight": 0.13,
    "rollout_fn_desc_weight": 0.6,
    "rollout_matched_prefix_struct_weight": 0.4,
    "rollout_drop_invalid_struct_ce_multiplier": 2.5,
}
COORD_CE = 0.35
WEIGHTS = MaskWeights(**VALUES, coord_ce_weight=COORD_CE)
TABLE = check("losses/mask-table", read_yaml(contracts_root() / "losses" / "mask_table.yaml"))
CELLS = [
    (context, subset, kind)
    for context, rows in TABLE["contexts"].items()
    for subset in rows
    for kind in ("struct", "desc", "coord", "eos")
]


def promised(context: str, subset: str, kind: str) -> float:
    cell = TABLE["contexts"][context][subset].get(kind, 0)
    return float(cell) if not isinstance(cell, str) else {**VALUES, "coord_ce_weight": COORD_CE}[cell]


def weights_by_position(sample: Sample, provenance: Provenance, weights: MaskWeights = WEIGHTS) -> dict[int, float]:
    context = build_context(collate([sample]), provenance, weights)
    return {p + 1: w for p, w in zip(context.predict.tolist(), context.weight.tolist(), strict=True)}


def weights_of(sample: Sample, provenance: Provenance, subset: TokenSubset, kind: TokenType) -> set[float]:
    found = weights_by_position(sample, provenance)
    at = [p for p, (s, t) in enumerate(zip(sample.subsets, sample.types, strict=True)) if (s, t) == (subset, kind)]
    assert at, "the sample holds no such token"
    return {found.get(p, 0.0) for p in at}


@pytest.mark.invariant("LOSS-001")
@pytest.mark.parametrize(("context", "subset", "kind"), CELLS)
def test_runtime_cell_equals_the_contract(context: str, subset: str, kind: str) -> None:
    cell = weight_table(ContextKind(context), WEIGHTS)[TokenSubset[subset.upper()], TokenType[kind.upper()]]
    assert cell.item() == promised(context, subset, kind)


@pytest.mark.invariant("LOSS-001")
@pytest.mark.parametrize("kind", list(ContextKind))
def test_cells_that_the_contract_does_not_name_are_zero(kind: ContextKind) -> None:
    table = weight_table(kind, WEIGHTS)
    for context, subset, name in CELLS:
        if context == kind:
            table[TokenSubset[subset.upper()], TokenType[name.upper()]] = 0.0
    assert not table.any()


@pytest.mark.invariant("LOSS-001")
@pytest.mark.parametrize("provenance", [Provenance.STAGE1, Provenance.A1, Provenance.A2])
def test_ground_truth_tokens_weigh_what_the_table_says(provenance: Provenance) -> None:
    sample = gt_sample(0)
    for kind in (TokenType.STRUCT, TokenType.DESC, TokenType.COORD, TokenType.EOS):
        expected = promised(provenance.kind, "gt", kind.name.lower())
        assert weights_of(sample, provenance, TokenSubset.GT, kind) == {expected}


@pytest.mark.invariant("LOSS-001")
@pytest.mark.invariant("LOSS-003")
def test_matched_prefix_supervises_structure_alone() -> None:
    sample = rollout_sample(0, (TokenSubset.MATCHED,))
    assert weights_of(sample, Provenance.B, TokenSubset.MATCHED, TokenType.STRUCT) == {0.4}
    assert weights_of(sample, Provenance.B, TokenSubset.MATCHED, TokenType.DESC) == {0.0}
    assert weights_of(sample, Provenance.B, TokenSubset.MATCHED, TokenType.COORD) == {0.0}


@pytest.mark.invariant("LOSS-003")
@pytest.mark.parametrize("subset", [TokenSubset.FP, TokenSubset.DROPPED, TokenSubset.OPENING])
def test_false_positives_and_the_written_opening_are_neutral(subset: TokenSubset) -> None:
    found = weights_by_position(rollout_sample(0), Provenance.B)
    sample = rollout_sample(0)
    assert not [p for p, s in enumerate(sample.subsets) if s is subset and p in found]


@pytest.mark.invariant("LOSS-003")
def test_injected_objects_supervise_structure_and_names() -> None:
    sample = rollout_sample(0, (TokenSubset.MATCHED,))
    assert weights_of(sample, Provenance.B, TokenSubset.FN, TokenType.STRUCT) == {1.0}
    assert weights_of(sample, Provenance.B, TokenSubset.FN, TokenType.DESC) == {0.6}
    assert weights_of(sample, Provenance.B, TokenSubset.FN, TokenType.COORD) == {0.0}


@pytest.mark.invariant("LOSS-003")
@pytest.mark.parametrize("prefix", [(), PREFIX, (TokenSubset.FP, TokenSubset.FP)])
def test_closure_and_end_are_always_supervised(prefix: tuple[TokenSubset, ...]) -> None:
    sample = rollout_sample(3, prefix, 0)
    found = weights_by_position(sample, Provenance.B, mask_weights())
    assert [found[p] for p in (len(sample.ids) - 2, len(sample.ids) - 1)] == [1.0, 1.0]


@pytest.mark.invariant("LOSS-003")
def test_injected_opening_is_supervised() -> None:
    sample = rollout_sample(0, (), 1, TokenSubset.OPENING_INJECTED)
    assert weights_of(sample, Provenance.B, TokenSubset.OPENING_INJECTED, TokenType.STRUCT) == {1.0}


@pytest.mark.invariant("LOSS-003")
def test_ablations_are_weights_not_code() -> None:
    """Rollout-matching's earlier defaults: no CE on matched structure, none on injected names (REG-1.5, 5.4)."""
    off = mask_weights(rollout_fn_desc_weight=0.0, rollout_matched_prefix_struct_weight=0.0)
    sample = rollout_sample(0)
    found = weights_by_position(sample, Provenance.B, off)
    kept = {(sample.subsets[p], sample.types[p]) for p in found}
    assert kept == {
        (TokenSubset.FN, TokenType.STRUCT),
        (TokenSubset.CLOSURE, TokenType.STRUCT),
        (TokenSubset.CLOSURE, TokenType.EOS),
    }


@pytest.mark.invariant("LOSS-001")
def test_dropped_objects_raise_structure_in_their_own_segment_only() -> None:
    dropped, clean = rollout_sample(0, (TokenSubset.DROPPED, TokenSubset.MATCHED)), rollout_sample(1, ())
    context = build_context(collate([dropped, clean]), Provenance.B, WEIGHTS)
    first = context.predict < len(dropped.ids) - 1
    struct = context.of_type(TokenType.STRUCT)
    assert set(context.weight[first & struct].tolist()) == {2.5, 1.0}
    assert set(context.weight[first & ~struct].tolist()) == {0.6, 1.0}
    assert set(context.weight[~first & struct].tolist()) == {1.0}


@pytest.mark.invariant("LOSS-001")
def test_unknown_subset_for_a_context_is_refused() -> None:
    with pytest.raises(ValueError, match=r"context gt .* does not know subset .*FN.*it knows GT"):
        build_context(collate([rollout_sample(0)]), Provenance.A1, mask_weights())
    with pytest.raises(ValueError, match=r"context rollout .* does not know subset GT"):
        build_context(collate([gt_sample(0)]), Provenance.B, mask_weights())


@pytest.mark.invariant("LOSS-001")
def test_context_kind_and_channel_follow_from_the_forward() -> None:
    seen = {p.value: (p.kind.value, p.channel, p.takes_coord_losses) for p in Provenance}
    assert seen == {
        "stage1": ("gt", None, True),
        "A1": ("gt", "A", False),
        "A2": ("self_context", "A", True),
        "B": ("rollout", "B", True),
    }


@pytest.mark.invariant("LOSS-001")
def test_types_are_mutually_exclusive_and_survive_the_layout() -> None:
    samples = [gt_sample(0), gt_sample(1, (2, 4))]
    views = []
    for packed in (True, False):
        context = build_context(collate(samples, packed), Provenance.STAGE1, WEIGHTS)
        masks = torch.stack([context.of_type(kind) for kind in TokenType])
        assert (masks.sum(0) == 1).all()
        views.append((context.target.tolist(), context.types.tolist(), context.weight.tolist()))
    assert views[0] == views[1]
