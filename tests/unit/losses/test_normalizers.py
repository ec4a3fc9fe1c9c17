"""Losses do not depend on how a batch is packed, split or doubled; keys and their meaning."""

from __future__ import annotations

from functools import reduce
from operator import add

import pytest
import torch

from coordexp.encode.types import TokenType
from coordexp.losses.manifest import Manifest, ModuleEntry
from coordexp.losses.masks import Provenance
from coordexp.losses.normalizers import LossSums, Normalizers, TermSum, count_normalizers
from coordexp.losses.objective import Objective, ObjectiveOutput, build_objective
from coordexp.losses.registry import COMPONENTS, TERMS
from coordexp.losses.specs.bbox_geo import BboxGeoConfig
from coordexp.losses.specs.coord_diag import CoordDiagConfig
from coordexp.losses.specs.coord_reg import CoordRegConfig
from coordexp.losses.specs.token_ce import TokenCEConfig
from coordexp.losses.vocab import score_hidden
from tests.unit.losses.synthetic import (
    Sample,
    collate,
    gt_sample,
    lay_out,
    random_head,
    random_states,
    rollout_sample,
)


def make_objective(desc: float = 2.0, self_struct: float = 0.1) -> Objective:
    coord_reg = CoordRegConfig(
        coord_gate_weight=0.5, text_gate_weight=0.5, soft_ce_weight=1.0, w1_weight=1.0, coord_ce_weight=0.2
    )
    token_ce = TokenCEConfig(desc_ce_weight=desc, self_context_struct_ce_weight=self_struct, rollout_fn_desc_weight=0.5)
    modules = (
        ModuleEntry("token_ce", token_ce),
        ModuleEntry("bbox_geo", BboxGeoConfig()),
        ModuleEntry("coord_reg", coord_reg),
    )
    return build_objective(Manifest(modules, (ModuleEntry("coord_diag", CoordDiagConfig()),)))


def make_samples(provenance: Provenance) -> list[Sample]:
    if provenance is Provenance.B:
        return [rollout_sample(0), rollout_sample(1, (), 3), rollout_sample(2, injected=0)]
    return [gt_sample(0), gt_sample(1, (2, 4, 2)), gt_sample(2, ()), gt_sample(3, (2,))]


def run(
    provenance: Provenance, groups: list[list[int]], packed: bool = True
) -> tuple[ObjectiveOutput, list[torch.Tensor]]:
    """One optimizer step over micro-batches of the given samples, normalized over all of them."""
    objective, samples, head = make_objective(), make_samples(provenance), random_head()
    states = [s.requires_grad_() for s in random_states(samples)]
    batches = [[samples[i] for i in group] for group in groups]
    contexts = [objective.context(collate(batch, packed), provenance) for batch in batches]
    whole = reduce(add, (count_normalizers(context) for context in contexts))
    output = None
    for group, context in zip(groups, contexts, strict=True):
        part = objective(context, score_hidden(lay_out([states[i] for i in group], packed), head), whole)
        part.total.backward()
        output = part if output is None else output + part
    return output, [head.weight.grad, *(torch.zeros_like(s) if s.grad is None else s.grad for s in states)]


@pytest.mark.invariant("LOSS-005")
@pytest.mark.parametrize("provenance", [Provenance.STAGE1, Provenance.A2, Provenance.B])
@pytest.mark.parametrize(
    ("groups", "packed"), [([[0, 1, 2]], False), ([[2, 0, 1]], True), ([[0], [1], [2]], True), ([[2, 1], [0]], False)]
)
def test_grouping_changes_neither_loss_nor_gradient(
    provenance: Provenance, groups: list[list[int]], packed: bool
) -> None:
    rest = [3] if provenance is not Provenance.B else []
    whole, wanted = run(provenance, [[0, 1, 2, *rest]])
    split, found = run(provenance, [*groups, rest] if rest else groups, packed)
    assert float(split.total.detach()) == pytest.approx(float(whole.total.detach()), rel=1e-12)
    losses = {key: value for key, value in whole.metrics().items() if key.startswith("loss/")}
    assert {key: split.metrics()[key] for key in losses} == pytest.approx(losses, rel=1e-9)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.invariant("LOSS-005")
@pytest.mark.parametrize("provenance", [Provenance.STAGE1, Provenance.B])
def test_doubling_the_batch_leaves_every_loss(provenance: Provenance) -> None:
    once, _ = run(provenance, [[0, 1, 2]])
    twice, _ = run(provenance, [[0, 1, 2, 0, 1, 2]])
    losses = [{k: v for k, v in step.metrics().items() if k.startswith("loss/")} for step in (once, twice)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    assert float(twice.total.detach()) == pytest.approx(float(once.total.detach()), rel=1e-12)


@pytest.mark.invariant("LOSS-005")
def test_normalizers_are_counts_of_the_batch() -> None:
    samples = make_samples(Provenance.STAGE1)
    context = make_objective().context(collate(samples), Provenance.STAGE1)
    counts = count_normalizers(context)
    kinds = [kind for s in samples for kind in s.types[s.prompt_length :]]
    struct = kinds.count(TokenType.STRUCT) + kinds.count(TokenType.EOS)
    desc, coord = kinds.count(TokenType.DESC), kinds.count(TokenType.COORD)
    expected = {
        "token_ce": struct + 2.0 * desc, "struct_ce": struct, "desc_ce": 2.0 * desc, "coord_token_ce": 0.2 * coord,
        "soft_ce": coord, "coord_gate": coord, "text_gate": struct + desc - len(samples), "smoothl1": 5, "ciou": 5,
    }  # fmt: skip
    assert {name: counts[name].item() for name in expected} == pytest.approx(expected)


@pytest.mark.invariant("LOSS-005")
def test_vectors_of_another_length_are_refused() -> None:
    n_terms = len(TERMS)
    with pytest.raises(ValueError, match=rf"a vector of {n_terms + 1} numbers, got shape \(3,\)"):
        Normalizers.from_tensor(torch.zeros(3))
    with pytest.raises(ValueError, match=rf"shape \(3, {n_terms}\), got \(2, {n_terms}\)"):
        LossSums.from_tensor(torch.zeros(2, n_terms))


@pytest.mark.invariant("LOSS-005")
def test_nothing_counted_contributes_nothing() -> None:
    empty = Normalizers(torch.zeros(len(TERMS) + 1, dtype=torch.float64))
    assert empty.share("ciou").item() == 0.0
    assert (empty + Normalizers(torch.full((len(TERMS) + 1,), 4.0))).share("ciou").item() == 0.25


@pytest.mark.invariant("LOSS-006")
def test_desc_weight_moves_the_total_but_not_the_logged_means() -> None:
    outputs = []
    for desc in (1.0, 3.0):
        objective, samples, head = make_objective(desc), make_samples(Provenance.STAGE1), random_head()
        context = objective.context(collate(samples), Provenance.STAGE1)
        outputs.append(
            objective(context, score_hidden(lay_out(random_states(samples)), head), count_normalizers(context))
        )
    light, heavy = (output.metrics() for output in outputs)
    assert light == pytest.approx(heavy)
    struct, desc_ce, counts = light["loss/struct_ce"], light["loss/desc_ce"], {}
    for kind in TokenType:
        counts[kind] = sum(s.types[s.prompt_length :].count(kind) for s in make_samples(Provenance.STAGE1))
    n_struct, n_desc = counts[TokenType.STRUCT] + counts[TokenType.EOS], counts[TokenType.DESC]

    def joint(weight: float) -> float:
        return (n_struct * struct + weight * n_desc * desc_ce) / (n_struct + weight * n_desc)

    difference = float((outputs[1].total - outputs[0].total).detach())
    assert difference == pytest.approx(joint(3.0) - joint(1.0), rel=1e-9)
    assert abs(difference) > 1e-4


@pytest.mark.invariant("LOSS-006")
def test_self_context_weight_counts_against_the_anchor() -> None:
    """Divided by its own weight sum it would cancel; divided jointly with the anchor it does not."""
    totals = []
    for weight in (0.1, 0.9):
        objective, samples, head = make_objective(self_struct=weight), make_samples(Provenance.A1), random_head()
        contexts = [objective.context(collate(samples), p) for p in (Provenance.A1, Provenance.A2)]
        whole = count_normalizers(contexts[0]) + count_normalizers(contexts[1])
        parts = [
            objective(c, score_hidden(lay_out(random_states(samples, seed)), head), whole)
            for seed, c in enumerate(contexts)
        ]
        totals.append(float((parts[0].total + parts[1].total).detach()))
    assert abs(totals[0] - totals[1]) > 1e-3


@pytest.mark.invariant("LOSS-022")
def test_keys_are_canonical_and_absent_where_nothing_was_computed() -> None:
    output, _ = run(Provenance.STAGE1, [[0, 1, 2]])
    keys = {key for key in output.metrics() if key.startswith("loss/")}
    assert keys == {
        "loss/struct_ce", "loss/desc_ce", "loss/coord_token_ce", "loss/coord_reg", "loss/coord_reg/soft_ce",
        "loss/coord_reg/w1", "loss/coord_reg/coord_gate", "loss/coord_reg/text_gate", "loss/geo",
        "loss/geo/smoothl1", "loss/geo/ciou",
    }  # fmt: skip
    without_objects, _ = run(Provenance.STAGE1, [[2]])
    assert {key for key in without_objects.metrics() if key.startswith("loss/")} == {
        "loss/struct_ce", "loss/coord_reg", "loss/coord_reg/text_gate"
    }  # fmt: skip


@pytest.mark.invariant("LOSS-022")
def test_composite_losses_weigh_their_parts() -> None:
    metrics = run(Provenance.STAGE1, [[0, 1, 2]])[0].metrics()
    parts = {name: metrics[f"loss/coord_reg/{name}"] for name in ("soft_ce", "w1", "coord_gate", "text_gate")}
    expected = parts["soft_ce"] + parts["w1"] + 0.5 * parts["coord_gate"] + 0.5 * parts["text_gate"]
    assert metrics["loss/coord_reg"] == pytest.approx(expected)
    assert metrics["loss/geo"] == pytest.approx(metrics["loss/geo/smoothl1"] + metrics["loss/geo/ciou"])


@pytest.mark.invariant("LOSS-022")
def test_sums_survive_a_reduction_and_divide_afterwards() -> None:
    def sums(total: float, count: float) -> LossSums:
        return LossSums.of({"w1": TermSum(torch.tensor(total), torch.tensor(count), 2.0)}, torch.device("cpu"))

    reduced = LossSums.from_tensor(sums(3.0, 1.0).to_tensor() + sums(1.0, 3.0).to_tensor())
    assert reduced.metrics() == {"loss/coord_reg": 2.0, "loss/coord_reg/w1": 1.0}
    assert (sums(3.0, 1.0) + sums(1.0, 3.0)).metrics() == reduced.metrics()
    assert {key.split("/")[1] for key in reduced.metrics()} <= set(COMPONENTS)


@pytest.mark.invariant("LOSS-032")
def test_a_term_that_no_module_registers_is_refused_by_name() -> None:
    one = torch.ones(())
    with pytest.raises(ValueError, match="no module registers the term w2; registered are struct_ce, "):
        LossSums.of({"w1": TermSum(one, one), "w2": TermSum(one, one)}, torch.device("cpu"))
