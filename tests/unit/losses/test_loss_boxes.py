"""Box terms at the places where geometry degenerates."""

from __future__ import annotations

import pytest
import torch

from coordexp.losses.boxes import MIN_SIZE, canonicalize, complete_iou_loss, smooth_l1

TARGET = torch.tensor([[0.4, 0.4, 0.6, 0.7]], dtype=torch.float64)
PLACES = {
    "zero area": (0.5, 0.5, 0.5, 0.5),
    "zero width": (0.5, 0.4, 0.5, 0.7),
    "swapped": (0.6, 0.7, 0.4, 0.4),
    "touching": (0.6, 0.4, 0.8, 0.7),
    "corner": (0.6, 0.7, 0.8, 0.9),
    "contained": (0.45, 0.45, 0.55, 0.6),
    "containing": (0.1, 0.1, 0.9, 0.9),
    "identical": (0.4, 0.4, 0.6, 0.7),
    "far": (0.0, 0.0, 0.01, 0.01),
    "whole image": (0.0, 0.0, 1.0, 1.0),
    "at one": (1.0, 1.0, 1.0, 1.0),
    "at zero": (0.0, 0.0, 0.0, 0.0),
}


def box_of(name: str) -> torch.Tensor:
    return torch.tensor([PLACES[name]], dtype=torch.float64).requires_grad_()


@pytest.mark.invariant("LOSS-013")
@pytest.mark.parametrize("place", list(PLACES))
def test_terms_and_gradients_are_finite(place: str) -> None:
    targets = canonicalize(torch.tensor(list(PLACES.values()), dtype=torch.float64))
    boxes = box_of(place).detach().expand_as(targets).clone().requires_grad_()
    total = complete_iou_loss(canonicalize(boxes), targets) + smooth_l1(canonicalize(boxes), targets)
    total.sum().backward()
    assert torch.isfinite(total).all()
    assert torch.isfinite(boxes.grad).all()
    assert (total >= 0).all()
    # Half a bin is the smallest side, so no gradient of the aspect ratio explodes.
    assert boxes.grad.abs().max() < 1e4


@pytest.mark.invariant("LOSS-013")
def test_gradient_steps_bring_every_box_to_its_target() -> None:
    boxes = torch.tensor(list(PLACES.values()), dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([boxes], lr=5e-3)
    for _ in range(400):
        optimizer.zero_grad()
        complete_iou_loss(canonicalize(boxes), TARGET).sum().backward()
        optimizer.step()
    assert complete_iou_loss(canonicalize(boxes.detach()), TARGET).max().item() < 0.15


@pytest.mark.invariant("LOSS-013")
@pytest.mark.parametrize("place", ["zero area", "zero width"])
def test_a_box_without_area_grows(place: str) -> None:
    box = box_of(place)
    complete_iou_loss(canonicalize(box), TARGET).sum().backward()
    assert box.grad[0, 0] > 0 > box.grad[0, 2]


@pytest.mark.invariant("LOSS-013")
@pytest.mark.parametrize(
    ("place", "axis", "sign"),
    [("far", 2, -1), ("far", 3, -1), ("at one", 0, 1), ("touching", 0, 1), ("contained", 2, -1), ("containing", 0, -1)],
)
def test_gradient_points_away_from_the_target(place: str, axis: int, sign: int) -> None:
    box = box_of(place)
    complete_iou_loss(canonicalize(box), TARGET).sum().backward()
    assert torch.sign(box.grad[0, axis]) == sign


@pytest.mark.invariant("LOSS-013")
def test_swapped_corners_are_the_same_box_with_the_gradient_swapped_back() -> None:
    straight = torch.tensor([[0.3, 0.35, 0.5, 0.6]], dtype=torch.float64).requires_grad_()
    swapped = straight.detach()[:, [2, 3, 0, 1]].requires_grad_()
    for box in (straight, swapped):
        complete_iou_loss(canonicalize(box), TARGET).sum().backward()
    assert torch.equal(straight.grad, swapped.grad[:, [2, 3, 0, 1]])


@pytest.mark.invariant("LOSS-013")
def test_no_side_is_shorter_than_half_a_bin() -> None:
    box = canonicalize(box_of("at one"))
    assert (box[:, 2:] - box[:, :2]).detach().flatten().tolist() == pytest.approx([MIN_SIZE, MIN_SIZE])
    one_bin = torch.tensor([[0.0, 0.0, 1 / 999, 1 / 999]], dtype=torch.float64)
    assert torch.equal(canonicalize(one_bin), one_bin)


@pytest.mark.invariant("LOSS-014")
@pytest.mark.parametrize("place", ["touching", "contained", "containing", "far", "whole image", "identical", "corner"])
def test_ciou_equals_torchvision_with_its_gradient(place: str) -> None:
    from torchvision.ops import complete_box_iou_loss

    ours, theirs = box_of(place), box_of(place)
    found, wanted = complete_iou_loss(ours, TARGET), complete_box_iou_loss(theirs, TARGET)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    found.sum().backward()
    wanted.sum().backward()
    if place not in ("identical", "touching", "corner"):  # ties of max and min: both take a valid subgradient
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.invariant("LOSS-014")
def test_identical_boxes_cost_nothing_and_far_ones_more_than_one() -> None:
    assert complete_iou_loss(TARGET, TARGET).item() == pytest.approx(0, abs=1e-5)
    assert complete_iou_loss(box_of("far"), TARGET).item() > 1
    assert smooth_l1(TARGET + 0.1, TARGET).item() == pytest.approx(0.005)
