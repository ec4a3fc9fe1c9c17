"""The chunked pass against plain autograd on full logits, and what it costs and tolerates."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from coordexp.forward.head import OutputHead
from coordexp.losses import vocab
from coordexp.losses.vocab import GATE_EPS, VocabularyOutput, VocabularyPlan, run_vocabulary_pass
from tests.unit.losses.synthetic import COORD_IDS, HIDDEN, VOCABULARY, random_head

ROWS, SLOTS, CHUNK = 7, 3, 2 * VOCABULARY * 8


def make_plan(rows: int = ROWS, slots: int = SLOTS, dtype: torch.dtype = torch.float64) -> VocabularyPlan:
    generator = torch.Generator().manual_seed(5)
    hidden, slot_hidden = (torch.randn(n, HIDDEN, generator=generator, dtype=torch.float64) for n in (rows, slots))
    target = torch.randint(0, VOCABULARY, (rows,), generator=generator)
    target[::2] = COORD_IDS[target[::2] % 1000]
    coefficients = [torch.rand(rows, generator=generator, dtype=torch.float64) for _ in range(3)]
    leaves = [x.to(dtype).requires_grad_() for x in (hidden, slot_hidden)]
    return VocabularyPlan(*leaves, target, *coefficients, n_graded=rows)


def plain(plan: VocabularyPlan, head: OutputHead) -> VocabularyOutput:
    """The same by autograd over all logits, through log-sum-exp."""
    scores, slot_scores = (x @ head.weight.T for x in (plan.hidden, plan.slot_hidden))
    if head.coord_offset is not None:
        scores = scores.index_add(1, head.coord_ids, plan.hidden @ head.coord_offset.T)
        slot_scores = slot_scores.index_add(1, head.coord_ids, plan.slot_hidden @ head.coord_offset.T)
    ce = F.cross_entropy(scores, plan.target, reduction="none")
    is_coord = torch.zeros(scores.shape[1], dtype=torch.bool).index_fill(0, head.coord_ids, True)
    everything = scores.logsumexp(1)
    mass = (scores[:, is_coord].logsumexp(1) - everything).exp()
    rest = (scores[:, ~is_coord].logsumexp(1) - everything).exp()
    gates = -torch.log(mass + GATE_EPS), -torch.log(rest + GATE_EPS)
    loss = (plan.ce * ce + plan.coord_gate * gates[0] + plan.text_gate * gates[1]).sum()
    return VocabularyOutput(loss, slot_scores[:, head.coord_ids], ce, *gates, mass)


def gradients(output: VocabularyOutput, *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
    mix = torch.linspace(-1, 1, output.coord_logits.numel(), dtype=output.coord_logits.dtype)
    total = 3 * output.loss + (output.coord_logits.flatten() * mix).sum()
    return torch.autograd.grad(total, leaves, retain_graph=True)


def leaves_of(plan: VocabularyPlan, head: OutputHead) -> list[torch.Tensor]:
    leaves = (plan.hidden, plan.slot_hidden, head.weight, head.coord_offset)
    return [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]


@pytest.mark.invariant("LOSS-007")
@pytest.mark.parametrize("offset", [False, True], ids=["plain", "with coord offset"])
@pytest.mark.parametrize("chunk", [1, CHUNK, 2**30])
def test_values_and_gradients_equal_those_of_full_logits(offset: bool, chunk: int) -> None:
    plan, head = make_plan(), random_head(offset=offset)
    found, wanted = run_vocabulary_pass(plan, head, chunk), plain(plan, head)
    for field in dataclasses.fields(VocabularyOutput):
        torch.testing.assert_close(getattr(found, field.name), getattr(wanted, field.name), rtol=1e-10, atol=1e-12)
    leaves = leaves_of(plan, head)
    for ours, theirs in zip(gradients(found, *leaves), gradients(wanted, *leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.invariant("LOSS-007")
def test_gradcheck_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    plan, ids = make_plan(3, 2), torch.randperm(9, generator=generator)[:4]

    def total(hidden: torch.Tensor, slots: torch.Tensor, weight: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        given = dataclasses.replace(plan, hidden=hidden, slot_hidden=slots, target=torch.tensor([0, 8, int(ids[0])]))
        output = run_vocabulary_pass(given, OutputHead(weight, ids, offset), chunk_bytes=2 * 9 * 8)
        return torch.cat([output.loss[None], output.coord_logits.flatten()])

    shapes = ((3, HIDDEN), (2, HIDDEN), (9, HIDDEN), (4, HIDDEN))
    leaves = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    assert torch.autograd.gradcheck(total, leaves)


@pytest.mark.invariant("LOSS-007")
def test_gates_stay_exact_where_the_mass_is_almost_one() -> None:
    """Beside 1, float32 keeps 6e-8: far too coarse for a 1 − p_coord of 2e-6."""
    weight = torch.zeros(VOCABULARY, HIDDEN)
    weight[COORD_IDS, 0] = 10.5
    plan = dataclasses.replace(make_plan(2, 1, torch.float32), hidden=torch.eye(2, HIDDEN))
    output = run_vocabulary_pass(plan, OutputHead(weight, COORD_IDS))
    rest = 80 / (80 + 1000 * torch.tensor(10.5, dtype=torch.float64).exp())
    assert output.text_gate[0].item() == pytest.approx(-torch.log(rest + GATE_EPS).item(), rel=1e-6)
    assert output.coord_gate[0].item() == pytest.approx(0.0, abs=4e-6)


@pytest.mark.invariant("LOSS-007")
def test_extreme_logits_stay_finite() -> None:
    for scale in (1e4, -1e4):
        plan, base = make_plan(dtype=torch.float32), random_head(dtype=torch.float32)
        head = OutputHead((scale * base.weight.detach()).requires_grad_(), COORD_IDS)
        output = run_vocabulary_pass(plan, head)
        for value in (output.loss, *gradients(output, *leaves_of(plan, head))):
            assert torch.isfinite(value).all()


@pytest.mark.invariant("LOSS-008")
@pytest.mark.parametrize("frozen", ["weight", "hidden", "offset", "weight and hidden"])
def test_frozen_leaves_get_no_gradient_and_the_others_keep_theirs(frozen: str) -> None:
    plan, head = make_plan(), random_head(offset=True)
    named = {"weight": [head.weight], "hidden": [plan.hidden, plan.slot_hidden], "offset": [head.coord_offset]}
    for name in frozen.split(" and "):
        for leaf in named[name]:
            leaf.requires_grad_(False)
    output, wanted = run_vocabulary_pass(plan, head, CHUNK), plain(plan, head)
    (3 * output.loss + output.coord_logits.sum()).backward()
    for name in frozen.split(" and "):
        assert all(leaf.grad is None for leaf in named[name])
    leaves = leaves_of(plan, head)
    expected = torch.autograd.grad(3 * wanted.loss + wanted.coord_logits.sum(), leaves)
    for leaf, gradient in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.invariant("LOSS-008")
def test_a_tied_embedding_collects_both_gradients() -> None:
    weight = random_head().weight
    ids = torch.randint(0, VOCABULARY, (ROWS,), generator=torch.Generator().manual_seed(2))

    def total(run: object) -> torch.Tensor:
        states = F.embedding(ids, weight).tanh()
        plan = dataclasses.replace(make_plan(), hidden=states, slot_hidden=states[:SLOTS])
        output = run(plan, OutputHead(weight, COORD_IDS))  # type: ignore[operator]
        return output.loss + output.coord_logits.square().mean()

    found, wanted = (torch.autograd.grad(total(run), weight)[0] for run in (run_vocabulary_pass, plain))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.invariant("LOSS-008")
def test_a_retained_graph_gives_the_same_gradient_twice() -> None:
    plan, head = make_plan(), random_head(offset=True)
    output, leaves = run_vocabulary_pass(plan, head, CHUNK), leaves_of(plan, head)
    first = [g.clone() for g in gradients(output, *leaves)]
    for one, two in zip(first, gradients(output, *leaves), strict=True):
        assert torch.equal(one, two)


@pytest.mark.invariant("LOSS-008")
def test_bfloat16_heads_are_summed_in_float32() -> None:
    plan, exact = make_plan(dtype=torch.bfloat16), random_head(dtype=torch.float64)
    head = OutputHead(exact.weight.detach().bfloat16().requires_grad_(), COORD_IDS)
    output = run_vocabulary_pass(plan, head, chunk_bytes=1)
    assert output.loss.dtype == output.coord_logits.dtype == torch.float32
    output.loss.backward()
    assert head.weight.grad is not None and head.weight.grad.dtype == torch.bfloat16
    double = OutputHead(head.weight.detach().double().requires_grad_(), COORD_IDS)
    wide = dataclasses.replace(
        plan, hidden=plan.hidden.detach().double(), slot_hidden=plan.slot_hidden.detach().double()
    )
    wanted = plain(wide, double)
    wanted.loss.backward()
    assert output.loss.item() == pytest.approx(wanted.loss.item(), rel=2e-2)
    torch.testing.assert_close(head.weight.grad.double(), double.weight.grad, rtol=0.1, atol=2e-2)


@pytest.mark.invariant("LOSS-008")
@pytest.mark.parametrize("offset", [False, True], ids=["plain", "with coord offset"])
def test_autocast_rounds_the_products_over_the_vocabulary_and_nothing_else(offset: bool) -> None:
    plan, head = make_plan(dtype=torch.float32), random_head(dtype=torch.float32, offset=offset)
    exact = run_vocabulary_pass(plan, head)
    with torch.autocast("cpu", torch.bfloat16):
        found = run_vocabulary_pass(plan, head, CHUNK)
        inside = gradients(found, *leaves_of(plan, head))
    assert torch.equal(found.coord_logits, exact.coord_logits)
    assert found.loss.dtype == found.ce.dtype == torch.float32
    assert not torch.equal(found.ce, exact.ce)
    # What a head of that precision gives, to the last bit: the sums are as fine as ever.
    rounded = OutputHead(head.weight.detach().bfloat16(), COORD_IDS, head.coord_offset)
    for name in ("ce", "coord_gate", "text_gate", "coord_mass"):
        assert torch.equal(getattr(found, name), getattr(run_vocabulary_pass(plan, rounded, CHUNK), name))
    outside = gradients(found, *leaves_of(plan, head))
    for one, two, fine in zip(inside, outside, gradients(exact, *leaves_of(plan, head)), strict=True):
        assert torch.equal(one, two) and one.dtype == torch.float32
        torch.testing.assert_close(one, fine, rtol=0.1, atol=5e-2)


@pytest.mark.invariant("LOSS-008")
def test_autocast_leaves_a_float64_head_alone() -> None:
    plan, head = make_plan(), random_head()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run_vocabulary_pass(plan, head).loss, run_vocabulary_pass(plan, head).loss)
        found = run_vocabulary_pass(plan, head).ce
    torch.testing.assert_close(found, plain(plan, head).ce, rtol=1e-10, atol=1e-12)


@pytest.mark.invariant("LOSS-008")
def test_a_vocabulary_in_parts_gives_the_head_s_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, exact = make_plan(dtype=torch.bfloat16), random_head(dtype=torch.float64)
    found = []
    for score_part, head_part in ((100, 7), (7, 100), (2**16, 2**12)):
        monkeypatch.setattr(vocab, "SCORE_PART", score_part)
        monkeypatch.setattr(vocab, "HEAD_PART", head_part)
        weight = exact.weight.detach().bfloat16().requires_grad_()
        run_vocabulary_pass(plan, OutputHead(weight, COORD_IDS)).loss.backward()
        found.append(weight.grad)
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[2])
    assert found[0].abs().sum() > 0


@pytest.mark.invariant("LOSS-009")
def test_rows_that_are_only_measured_get_values_but_no_gradient() -> None:
    plan, head = make_plan(), random_head()
    half = ROWS // 2
    keep = (torch.arange(ROWS) < half).double()
    masked = dataclasses.replace(
        plan, ce=plan.ce * keep, coord_gate=plan.coord_gate * keep, text_gate=plan.text_gate * keep, n_graded=half
    )
    output, wanted = run_vocabulary_pass(masked, head, CHUNK), plain(masked, head)
    torch.testing.assert_close(output.coord_mass, wanted.coord_mass)
    leaves = leaves_of(plan, head)
    for ours, theirs in zip(gradients(output, *leaves), gradients(wanted, *leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


class Largest(TorchDispatchMode):
    """Remembers the most rows that any tensor as wide as the vocabulary had."""

    rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.dim() == 2 and tensor.shape[1] == VOCABULARY:
                self.rows = max(self.rows, tensor.shape[0])
        return result


@pytest.mark.invariant("LOSS-009")
def test_no_tensor_holds_more_rows_of_logits_than_a_chunk() -> None:
    plan, head = make_plan(rows=24), random_head()
    with Largest() as seen:
        run_vocabulary_pass(plan, head, chunk_bytes=4 * VOCABULARY * 8).loss.backward()
    # The transposed weight [H, V] is a view of the head, not logits.
    assert 0 < seen.rows <= max(4, HIDDEN)


@pytest.mark.invariant("LOSS-009")
def test_without_gradients_nothing_is_differentiated() -> None:
    plan, head = make_plan(), random_head()
    with torch.no_grad():
        output = run_vocabulary_pass(plan, head)
    assert not output.loss.requires_grad
    torch.testing.assert_close(output.loss, plain(plan, head).loss.detach())
