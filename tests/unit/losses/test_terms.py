"""Every registered term: its value, its gradient, what it adds to the total. A new one is tested by being there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from coordexp.encode.types import TokenType
from coordexp.losses.manifest import Manifest, ModuleEntry
from coordexp.losses.masks import Provenance
from coordexp.losses.modules.coord_reg import MEASURES, CoordSlots
from coordexp.losses.normalizers import count_normalizers
from coordexp.losses.objective import ObjectiveOutput, build_objective
from coordexp.losses.registry import OBJECTIVE_MODULES, TERM_COUNTS
from coordexp.losses.specs.coord_reg import CoordRegConfig
from coordexp.losses.specs.types import Count, Term
from coordexp.losses.vocab import score_hidden
from coordexp.spec import Case, load_cases
from tests.unit.losses.synthetic import (
    COORD_IDS,
    collate,
    gt_sample,
    lay_out,
    random_head,
    random_states,
    rollout_sample,
)

CASES = load_cases(Path(__file__).resolve().parents[3] / "fixtures" / "losses" / "terms.json").cases
BINS = torch.tensor([0, 3, 500, 999])
# Every weighed term with its module and component.
WEIGHED = {
    term.name: (spec, component.name, term)
    for spec in OBJECTIVE_MODULES.values()
    for component in spec.components
    for term in component.terms
}


def slots_of(scores: torch.Tensor, bins: torch.Tensor, config: CoordRegConfig) -> CoordSlots:
    log_p = scores.log_softmax(-1)
    return CoordSlots(log_p, log_p.exp(), bins, config)


@pytest.mark.invariant("LOSS-010")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_a_term_has_the_value_worked_out_by_hand(case: Case) -> None:
    given = case.input
    assert sum(given["mass"].values()) == 1.0
    # Bins without mass are impossible in float64, but their logarithm is finite.
    scores = torch.full((1, 1000), -1e4, dtype=torch.float64)
    for k, mass in given["mass"].items():
        scores[0, int(k)] = math.log(mass)
    slots = slots_of(scores, torch.tensor([given["target"]]), CoordRegConfig(**given.get("config", {})))
    assert MEASURES[given["term"]](slots).tolist() == pytest.approx([case.expect["value"]], rel=1e-12, abs=1e-15)


@pytest.mark.invariant("LOSS-010")
def test_every_term_of_the_distribution_has_cases() -> None:
    counts = {name: sum(case.input["term"] == name for case in CASES) for name in MEASURES}
    assert {name: count for name, count in counts.items() if count < 2} == {}


@pytest.mark.invariant("LOSS-010")
@pytest.mark.parametrize("truncate", [None, 5])
@pytest.mark.parametrize("name", list(MEASURES))
def test_gradients_equal_finite_differences(name: str, truncate: int | None) -> None:
    """Along random directions: all 4,000 entries one by one would say no more."""
    generator = torch.Generator().manual_seed(1)
    scores = 2.0 * torch.randn(len(BINS), 1000, generator=generator, dtype=torch.float64)
    directions = torch.randn(3, *scores.shape, generator=generator, dtype=torch.float64)
    config = CoordRegConfig(coord_huber_delta=0.01, target_truncate=truncate)

    def along(steps: torch.Tensor) -> torch.Tensor:
        return MEASURES[name](slots_of(scores + (steps[:, None, None] * directions).sum(0), BINS, config))

    assert torch.autograd.gradcheck(along, torch.zeros(3, dtype=torch.float64).requires_grad_())


@pytest.mark.invariant("LOSS-010")
@pytest.mark.parametrize("name", list(MEASURES))
def test_a_peaked_distribution_stays_finite(name: str) -> None:
    scores = torch.zeros(4, 1000)
    scores[:, 7] = 1e4
    scores.requires_grad_()
    total = MEASURES[name](slots_of(scores, BINS, CoordRegConfig())).sum()
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(scores.grad).all()


def run_alone(term: Term, weight: float, module_weight: float) -> tuple[ObjectiveOutput, torch.Tensor]:
    """A rollout's forward with one term, and the gradient at its hidden states."""
    spec = WEIGHED[term.name][0]
    off = {other.weight: 0.0 for owner, _, other in WEIGHED.values() if owner is spec}
    entry = ModuleEntry(spec.name, spec.config(**off | {term.weight: weight}), weight=module_weight)
    objective, sample = build_objective(Manifest((entry,))), rollout_sample(0)
    context = objective.context(collate([sample]), Provenance.B)
    states = lay_out(random_states([sample])).requires_grad_()
    output = objective(context, score_hidden(states, random_head()), count_normalizers(context))
    output.total.backward()
    return output, states.grad


@pytest.mark.invariant("LOSS-032")
@pytest.mark.parametrize("name", list(WEIGHED))
def test_a_term_alone_is_the_whole_loss_by_both_weights(name: str) -> None:
    """It is logged under its own key and its component's, and it has a gradient wherever it has a weight."""
    _, component, term = WEIGHED[name]
    output, gradient = run_alone(term, 1.5, 0.5)
    losses = {key: value for key, value in output.metrics().items() if key.startswith("loss/")}
    assert set(losses) == {f"loss/{component}", f"loss/{component}/{name}"}
    value = losses[f"loss/{component}/{name}"]
    assert value != 0.0
    assert losses[f"loss/{component}"] == pytest.approx(1.5 * value, rel=1e-12)
    assert float(output.total.detach()) == pytest.approx(0.5 * 1.5 * value, rel=1e-9)
    assert gradient.abs().sum() > 0


@pytest.mark.invariant("LOSS-032")
@pytest.mark.parametrize("name", list(MEASURES))
def test_a_term_of_the_distribution_is_the_mean_of_its_measure(name: str) -> None:
    term, sample, head = WEIGHED[name][2], rollout_sample(0), random_head()
    kept = [item for item in sample.objects if item.subset.name in ("MATCHED", "FN")]
    where = [(p, k) for item in kept for p, k in zip(item.positions, item.bins, strict=True)]
    states = random_states([sample])[0]
    scores = torch.stack([head.weight.detach() @ states[p - 1] for p, _ in where])[:, COORD_IDS]
    slots = slots_of(scores, torch.tensor([k for _, k in where]), CoordRegConfig())
    found = run_alone(term, 2.0, 1.0)[0].metrics()[f"loss/coord_reg/{name}"]
    assert found == pytest.approx(MEASURES[name](slots).mean().item(), rel=1e-9)


@pytest.mark.invariant("LOSS-032")
@pytest.mark.parametrize("name", list(WEIGHED))
def test_a_term_of_weight_0_is_neither_computed_nor_logged(name: str) -> None:
    output, gradient = run_alone(WEIGHED[name][2], 0.0, 1.0)
    assert not any(key.startswith("loss/") for key in output.metrics())
    assert output.total.item() == 0.0 and not gradient.any()


@pytest.mark.invariant("LOSS-032")
@pytest.mark.parametrize("provenance", list(Provenance))
def test_terms_are_divided_by_what_they_register(provenance: Provenance) -> None:
    """The Channel-A anchor takes no coordinate or box loss, so nothing of theirs is counted in it."""
    sample = rollout_sample(0) if provenance is Provenance.B else gt_sample(0)
    manifest = Manifest((ModuleEntry("coord_reg", CoordRegConfig(coord_ce_weight=0.5)),))
    context = build_objective(manifest).context(collate([sample]), provenance)
    counts, taken = count_normalizers(context), provenance is not Provenance.A1
    struct, desc, coord, eos = (context.types == TokenType[name] for name in ("STRUCT", "DESC", "COORD", "EOS"))
    expected = {
        Count.STRUCT_WEIGHT: context.weight[struct | eos].sum().item(),
        Count.DESC_WEIGHT: context.weight[desc].sum().item(),
        Count.COORD_WEIGHT: context.weight[coord].sum().item(),
        Count.TEXT_TOKENS: float((struct | desc).sum()) * taken,
        Count.SLOTS: float(context.slot_bins.shape[0]) * taken,
        Count.BOXES: float(context.boxes.shape[0]) * taken,
    }
    assert context.slot_bins.shape[0] and context.boxes.shape[0]
    assert {name: counts[name].item() for name in TERM_COUNTS} == pytest.approx(
        {name: expected[count] for name, count in TERM_COUNTS.items()}
    )
