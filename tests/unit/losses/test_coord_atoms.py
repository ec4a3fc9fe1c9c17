"""The Gaussian target, distances of points, decode and embedding identities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coordexp.losses import coord_atoms as atoms

BINS = torch.tensor([0, 3, 500, 999])


def logits(seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(len(BINS), 1000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distribution(seed: int = 0) -> torch.Tensor:
    return torch.softmax(logits(seed), -1)


@pytest.mark.invariant("LOSS-010")
@pytest.mark.parametrize("truncate", [None, 0, 3])
def test_gaussian_target_is_centred_truncated_and_sums_to_one(truncate: int | None) -> None:
    target = atoms.gaussian_target(BINS, 2.0, truncate, torch.float64)
    torch.testing.assert_close(target.sum(-1), torch.ones(4, dtype=torch.float64))
    assert torch.equal(target.argmax(-1), BINS)
    if truncate is not None:
        inside = (torch.arange(1000) - BINS[:, None]).abs() <= truncate
        assert torch.equal(target > 0, inside)
    ratio = target[2, 502] / target[2, 500]
    assert truncate == 0 or ratio.item() == pytest.approx(np.exp(-0.5))


@pytest.mark.invariant("LOSS-010")
def test_wasserstein_is_zero_for_equal_distributions_and_the_distance_of_two_points() -> None:
    p = distribution()
    assert atoms.wasserstein(p, p).abs().max() < 1e-15
    points = torch.eye(1000, dtype=torch.float64)
    assert atoms.wasserstein(points[[0, 10]], points[[999, 13]]).tolist() == pytest.approx([1.0, 3 / 999])


@pytest.mark.invariant("LOSS-011")
def test_expectation_decode_has_the_coordexp_gradient() -> None:
    """∂ĉ/∂s_k = p_k (v_k − ĉ) / τ."""
    tau, scores = 0.7, logits(2).requires_grad_()
    p = torch.softmax(scores / tau, -1)
    decoded = atoms.decode(p, "exp")
    decoded.sum().backward()
    values = torch.arange(1000, dtype=torch.float64) / 999
    expected = p.detach() * (values - decoded.detach()[:, None]) / tau
    torch.testing.assert_close(scores.grad, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.invariant("LOSS-011")
def test_bins_decode_to_k_over_999() -> None:
    points = torch.eye(1000, dtype=torch.float64)
    for mode in ("exp", "st"):
        assert torch.equal(atoms.decode(points, mode), torch.arange(1000, dtype=torch.float64) / 999)


@pytest.mark.invariant("LOSS-011")
def test_straight_through_decode_is_hard_forward_and_soft_backward() -> None:
    scores = logits(3)
    hard_scores, soft_scores = (scores.clone().requires_grad_() for _ in range(2))
    hard = atoms.decode(hard_scores.softmax(-1), "st")
    soft = atoms.decode(soft_scores.softmax(-1), "exp")
    assert torch.equal(hard.detach(), scores.argmax(-1).double() / 999)
    assert not torch.allclose(hard, soft)
    upstream = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    hard.backward(upstream)
    soft.backward(upstream)
    assert torch.equal(hard_scores.grad, soft_scores.grad)
    assert hard_scores.grad.abs().sum() > 0


@pytest.mark.invariant("LOSS-012")
def test_straight_through_embedding_is_the_hard_row_with_the_soft_gradient() -> None:
    rows = torch.randn(1000, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    outcome = {}
    for mode in ("soft", "st", "hard"):
        scores, table = logits(5).requires_grad_(), rows.clone().requires_grad_()
        p = scores.softmax(-1)
        embedded = atoms.embed_coords(p, table, mode)
        embedded.backward(torch.ones_like(embedded))
        outcome[mode] = (embedded.detach(), scores.grad, p.detach())
    assert torch.equal(outcome["st"][0], rows[outcome["st"][2].argmax(-1)])
    assert torch.equal(outcome["hard"][0], outcome["st"][0])
    torch.testing.assert_close(outcome["soft"][0], outcome["soft"][2] @ rows)
    assert torch.equal(outcome["st"][1], outcome["soft"][1])
    assert outcome["hard"][1] is None


@pytest.mark.invariant("LOSS-012")
def test_unknown_embedding_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'mean' is unknown; use soft, st or hard"):
        atoms.embed_coords(distribution(), torch.zeros(1000, 2, dtype=torch.float64), "mean")


@pytest.mark.invariant("LOSS-010")
def test_huber_turns_linear_at_its_delta() -> None:
    points = torch.eye(1000, dtype=torch.float64)[[500, 501, 600]]
    found = atoms.expected_huber(points, torch.tensor([500, 500, 500]), 2 / 999)
    wanted = [0.0, 0.5 / 999**2, 2 / 999 * (100 / 999 - 1 / 999)]
    assert found.tolist() == pytest.approx(wanted)
