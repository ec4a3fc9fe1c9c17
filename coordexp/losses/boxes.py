"""Decoded boxes [M, 4] and targets [M, 4] in, SmoothL1 and CIoU [M] out; finite for every input.

Boxes are x1, y1, x2, y2 in [0, 1], in any precision; areas of half a bin need float32, so results are never coarser
than that. CIoU: Zheng et al., «Enhancing Geometric Factors in Model Learning and Inference for
Object Detection and Instance Segmentation», 2020.

Contract ids: LOSS-013, LOSS-014.
"""

from __future__ import annotations

import math

import torch

from coordexp.coords.codec import MAX_BIN

MIN_SIZE = 0.5 / MAX_BIN
_EPS = 1e-7


def _fine(boxes: torch.Tensor) -> torch.Tensor:
    return boxes.to(torch.promote_types(boxes.dtype, torch.float32))


def canonicalize(boxes: torch.Tensor) -> torch.Tensor:
    """Sort each axis' corners and give every side at least half a bin, by moving the far corner.

    What is added is a constant to autograd, and equal corners keep their roles: a box without area still feels how its
    sides want to grow, which `minimum` and `maximum` would cancel.
    """
    fine = _fine(boxes)
    first, second = fine[..., :2], fine[..., 2:]
    swapped = second < first
    near, far = torch.where(swapped, second, first), torch.where(swapped, first, second)
    missing = (MIN_SIZE - (far - near)).clamp(min=0).detach()
    return torch.cat([near, far + missing], dim=-1)


def smooth_l1(boxes: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over the four coordinates of SmoothL1 with β = 1, [M]: d²/2 for |d| < 1."""
    return torch.nn.functional.smooth_l1_loss(_fine(boxes), _fine(target), reduction="none").mean(-1)


def complete_iou_loss(boxes: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 − IoU + centre distance² / enclosing diagonal² + α·v, [M], of canonical boxes; α takes no gradient."""
    boxes, target = _fine(boxes), _fine(target)
    near, far = torch.maximum(boxes[..., :2], target[..., :2]), torch.minimum(boxes[..., 2:], target[..., 2:])
    size, target_size = boxes[..., 2:] - boxes[..., :2], target[..., 2:] - target[..., :2]
    overlap = (far - near).clamp(min=0).prod(-1)
    iou = overlap / (size.prod(-1) + target_size.prod(-1) - overlap + _EPS)
    enclosing = torch.maximum(boxes[..., 2:], target[..., 2:]) - torch.minimum(boxes[..., :2], target[..., :2])
    shift = (boxes[..., :2] + boxes[..., 2:] - target[..., :2] - target[..., 2:]) / 2
    distance = shift.square().sum(-1) / (enclosing.square().sum(-1) + _EPS)
    # The shape of a lengthened side means nothing, and its gradient, of the order 1 / size, would drown the rest.
    lengthened = (size <= MIN_SIZE * (1 + _EPS)).any(-1, keepdim=True)
    width, height = torch.where(lengthened, size.detach(), size).unbind(-1)
    skew = torch.atan(target_size[..., 0] / target_size[..., 1]) - torch.atan(width / height)
    v = (4 / math.pi**2) * skew.square()
    alpha = (v / (1 - iou + v + _EPS)).detach()
    return 1 - iou + distance + alpha * v
