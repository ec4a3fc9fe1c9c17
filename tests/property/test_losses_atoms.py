"""Every atom against numpy, scipy and torchvision in float64, over drawn inputs."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import special, stats
from torch.nn import functional as F

import coordexp  # noqa: F401  (torchvision becomes importable)
from coordexp.losses import coord_atoms as atoms
from coordexp.losses.boxes import canonicalize, complete_iou_loss, smooth_l1

VALUES = np.arange(1000) / 999
SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.sampled_from([0.1, 1.0, 5.0, 30.0])
BINS = st.integers(0, 999)


def draw_scores(seed: int, scale: float) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal(1000)


def target_of(k: int, sigma: float, radius: int | None) -> np.ndarray:
    distance = np.abs(np.arange(1000) - k)
    mass = stats.norm.pdf(distance, scale=sigma)
    if radius is not None:
        mass[distance > radius] = 0
    return mass / mass.sum()


@pytest.mark.invariant("LOSS-010")
@given(seed=SEEDS, scale=SCALES, k=BINS, sigma=st.floats(0.3, 50), radius=st.none() | st.integers(0, 40))
def test_terms_equal_numpy_and_scipy(seed: int, scale: float, k: int, sigma: float, radius: int | None) -> None:
    scores = draw_scores(seed, scale)
    log_p = torch.log_softmax(torch.tensor(scores)[None], -1)
    p, bins = log_p.exp(), torch.tensor([k])
    target = atoms.gaussian_target(bins, sigma, radius, torch.float64)
    wanted_p, wanted_q = special.softmax(scores), target_of(k, sigma, radius)
    np.testing.assert_allclose(target[0].numpy(), wanted_q, rtol=1e-9, atol=1e-300)
    found = {
        "soft_ce": atoms.soft_cross_entropy(log_p, target),
        "w1": atoms.wasserstein(p, target),
        "entropy": atoms.entropy(log_p),
        "coord_ce": atoms.cross_entropy(log_p, bins),
        "expected_l1": atoms.expected_l1(p, bins),
        "expected_huber": atoms.expected_huber(p, bins, 0.01),
        "decode": atoms.decode(p, "exp"),
    }
    wanted = {
        "soft_ce": -(wanted_q * special.log_softmax(scores)).sum(),
        "w1": stats.wasserstein_distance(VALUES, VALUES, wanted_p, wanted_q),
        "entropy": stats.entropy(wanted_p),
        "coord_ce": -special.log_softmax(scores)[k],
        "expected_l1": wanted_p @ np.abs(VALUES - k / 999),
        "expected_huber": wanted_p @ special.huber(0.01, VALUES - k / 999),
        "decode": wanted_p @ VALUES,
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(wanted, rel=1e-8, abs=1e-11)


COORDINATE = st.integers(0, 999).map(lambda k: k / 999) | st.floats(0, 1)
BOX = st.tuples(COORDINATE, COORDINATE, COORDINATE, COORDINATE)


def as_box(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


@pytest.mark.invariant("LOSS-014")
@given(a=BOX, b=BOX)
def test_ciou_and_smooth_l1_equal_torchvision_and_torch(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    from torchvision.ops import complete_box_iou_loss

    box, target = canonicalize(as_box(a)), canonicalize(as_box(b))
    ours, theirs = box.clone().requires_grad_(), box.clone().requires_grad_()
    found, wanted = complete_iou_loss(ours, target), complete_box_iou_loss(theirs, target)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(smooth_l1(box, target), F.smooth_l1_loss(box, target)[None])


@pytest.mark.invariant("LOSS-013")
@given(a=BOX, b=BOX)
def test_box_terms_and_gradients_are_finite_for_every_input(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    for dtype in (torch.float32, torch.float64):
        raw = as_box(a).to(dtype).requires_grad_()
        box, target = canonicalize(raw), canonicalize(as_box(b).to(dtype))
        total = (complete_iou_loss(box, target) + smooth_l1(box, target)).sum()
        total.backward()
        assert math.isfinite(total.item()) and torch.isfinite(raw.grad).all()
        assert (box[:, 2:] > box[:, :2]).all()


@pytest.mark.invariant("LOSS-013")
@given(a=BOX, b=BOX)
def test_a_small_step_against_the_gradient_never_worsens_ciou(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    # On a tie between two edges the loss has a kink, where no single direction is the gradient.
    edges = sorted((a[0], a[2], b[0], b[2])), sorted((a[1], a[3], b[1], b[3]))
    assume(all(high - low > 1e-3 for axis in edges for low, high in pairwise(axis)))
    raw, target = as_box(a).requires_grad_(), canonicalize(as_box(b))
    before = complete_iou_loss(canonicalize(raw), target)
    before.sum().backward()
    norm = raw.grad.norm()
    assert norm > 0
    moved = raw.detach() - 1e-7 * raw.grad / norm
    assert complete_iou_loss(canonicalize(moved), target).item() <= before.item() + 1e-9
