"""Every term that needs the whole vocabulary, in one chunked pass over the rows that have one. Contract ids: LOSS-02x.

Cross-entropy and both gates have coefficients known before the forward, so the gradients with respect to hidden states and head
are formed chunk by chunk while the scores are at hand, and only scaled in backward; no [T, V] tensor exists.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from coordexp.forward.head import OutputHead

GATE_EPS = 1e-6
CHUNK_BYTES = 160 * 2**20


@dataclass(frozen=True, eq=False)
class VocabularyPlan:
    """What to compute. R rows, C coord slots.

    `hidden` [R, H] and `slot_hidden` [C, H] predict them; `target` int64 [R]; `ce`, `coord_gate`, `text_gate` float64 [R] are the
    coefficients of each row's terms in the total. Rows from `n_graded` on have none and are measured only.
    """

    hidden: torch.Tensor
    slot_hidden: torch.Tensor
    target: torch.Tensor
    ce: torch.Tensor
    coord_gate: torch.Tensor
    text_gate: torch.Tensor
    n_graded: int


@dataclass(frozen=True, eq=False)
class VocabularyOutput:
    """`loss`: 0-d, attached to hidden states and head even when there are no rows; `coord_logits` [C, 1000], attached.

    Detached, [R]: `ce` −log p(target), `coord_gate` −log(p_coord + eps), `text_gate` −log(1 − p_coord + eps), `coord_mass` p_coord.
    """

    loss: torch.Tensor
    coord_logits: torch.Tensor
    ce: torch.Tensor
    coord_gate: torch.Tensor
    text_gate: torch.Tensor
    coord_mass: torch.Tensor


def run_vocabulary_pass(plan: VocabularyPlan, head: OutputHead, chunk_bytes: int = CHUNK_BYTES) -> VocabularyOutput:
    """Compute `plan`; gradients reach whichever of hidden states, head weight and coord offset require them."""
    leaves = (plan.hidden, plan.slot_hidden, head.weight, head.coord_offset)
    graded = torch.is_grad_enabled() and any(leaf is not None and leaf.requires_grad for leaf in leaves)
    setup = _Setup(plan, head.coord_ids, chunk_bytes, graded)
    return VocabularyOutput(*_VocabularyPass.apply(plan.hidden, plan.slot_hidden, head.weight, head.coord_offset, setup))


@dataclass(frozen=True, eq=False)
class _Setup:
    plan: VocabularyPlan
    coord_ids: torch.Tensor
    chunk_bytes: int
    graded: bool


@dataclass(eq=False)
class _Gradients:
    """Buffers in accumulation precision; a None is a leaf that needs no gradient."""

    hidden: torch.Tensor | None
    weight: torch.Tensor | None
    offset: torch.Tensor | None


class _VocabularyPass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, slot_hidden: torch.Tensor, weight: torch.Tensor, offset: torch.Tensor | None,
                setup: _Setup) -> tuple[torch.Tensor, ...]:
        needs = ctx.needs_input_grad
        with torch.autocast(hidden.device.type, enabled=False):
            loss, stats, gradients = _sweep(hidden, weight, offset, setup, needs if setup.graded else (False,) * 5)
            coord_logits = _coord_logits(slot_hidden, weight, offset, setup.coord_ids)
        ctx.save_for_backward(hidden, slot_hidden, weight, offset)
        ctx.setup, ctx.gradients = setup, gradients
        ctx.mark_non_differentiable(*stats)
        return (loss, coord_logits, *stats)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, slot_hidden, weight, offset = ctx.saved_tensors
        grad_loss, grad_coord = grad_outputs[:2]
        gradients: _Gradients | None = ctx.gradients
        # The buffers are scaled in place and handed on, so a retained graph's second backward computes them anew.
        ctx.gradients = None
        needs = ctx.needs_input_grad
        if gradients is None:
            gradients = _sweep(hidden, weight, offset, ctx.setup, needs)[2]
        for buffer in (gradients.hidden, gradients.weight, gradients.offset):
            if buffer is not None:
                buffer.mul_(grad_loss)
        ids = ctx.setup.coord_ids
        grad_coord = grad_coord.to(_accumulation_dtype(weight.dtype))
        grad_slots = None
        if needs[1]:
            grad_slots = (grad_coord @ _coord_rows(weight, offset, ids)).to(slot_hidden.dtype)
        if gradients.weight is not None or gradients.offset is not None:
            by_row = grad_coord.T @ slot_hidden.to(grad_coord.dtype)
            if gradients.weight is not None:
                gradients.weight.index_add_(0, ids, by_row)
            if gradients.offset is not None:
                gradients.offset.add_(by_row)
        return (_cast(gradients.hidden, hidden), grad_slots, _cast(gradients.weight, weight),
                None if offset is None else _cast(gradients.offset, offset), None)


def _cast(gradient: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    return None if gradient is None else gradient.to(like.dtype)


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _coord_rows(weight: torch.Tensor, offset: torch.Tensor | None, ids: torch.Tensor) -> torch.Tensor:
    rows = weight.index_select(0, ids).to(_accumulation_dtype(weight.dtype))
    return rows if offset is None else rows + offset.to(rows.dtype)


def _coord_logits(slot_hidden: torch.Tensor, weight: torch.Tensor, offset: torch.Tensor | None,
                  ids: torch.Tensor) -> torch.Tensor:
    rows = _coord_rows(weight, offset, ids)
    return slot_hidden.to(rows.dtype) @ rows.T


def _sweep(hidden: torch.Tensor, weight: torch.Tensor, offset: torch.Tensor | None, setup: _Setup,
           needs: tuple[bool, ...]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], _Gradients]:
    """One pass over the rows: the total, per-row statistics, and the gradients for a unit gradient of the total."""
    acc = _accumulation_dtype(weight.dtype)
    plan, ids = setup.plan, setup.coord_ids
    n_rows = hidden.shape[0]
    gradients = _Gradients(
        hidden=torch.zeros(hidden.shape, dtype=acc, device=hidden.device) if needs[0] else None,
        weight=torch.zeros(weight.shape, dtype=acc, device=weight.device) if needs[2] else None,
        offset=torch.zeros(offset.shape, dtype=acc, device=weight.device) if offset is not None and needs[3] else None)
    ce, coord, text = (c.to(acc) for c in (plan.ce, plan.coord_gate, plan.text_gate))
    stats = tuple(torch.zeros(n_rows, dtype=acc, device=hidden.device) for _ in range(4))
    step = max(1, setup.chunk_bytes // (weight.shape[0] * torch.finfo(acc).bits // 8))
    for start, end in _chunks(plan.n_graded, n_rows, step):
        part = slice(start, end)
        rows = hidden[part].to(weight.dtype)
        scores = _scores(rows, weight, offset, ids)
        measured, shares = _measure(scores, plan.target[part], ids)
        for stat, value in zip(stats, measured):
            stat[part] = value
        if start < plan.n_graded and (needs[0] or needs[2] or (offset is not None and needs[3])):
            _differentiate(scores, shares, (ce[part], coord[part], text[part]), plan.target[part], ids)
            _accumulate(gradients, scores, rows, part, weight, offset, ids)
    loss = (ce * stats[0] + coord * stats[1] + text * stats[2]).sum()
    return loss, stats, gradients


def _chunks(n_graded: int, n_rows: int, step: int) -> list[tuple[int, int]]:
    """Ranges of at most `step` rows, none of which mixes graded and measured rows."""
    ranges = []
    for low, high in ((0, n_graded), (n_graded, n_rows)):
        ranges += [(start, min(start + step, high)) for start in range(low, high, step)]
    return ranges


def _scores(rows: torch.Tensor, weight: torch.Tensor, offset: torch.Tensor | None, ids: torch.Tensor) -> torch.Tensor:
    scores = (rows @ weight.T).to(_accumulation_dtype(weight.dtype))
    if offset is not None:
        scores.index_add_(1, ids, (rows @ offset.to(rows.dtype).T).to(scores.dtype))
    return scores


@dataclass(frozen=True, eq=False)
class _Shares:
    """Of a chunk: sum of all exponentials [n, 1], probability of the coord ids and of all others [n, 1], coord exponentials [n, K]."""

    total: torch.Tensor
    coord: torch.Tensor
    rest: torch.Tensor
    exponentials: torch.Tensor


def _measure(scores: torch.Tensor, target: torch.Tensor, ids: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], _Shares]:
    """Statistics of a chunk; turns `scores` into exponentials, those of the coord ids set to 0 and handed back apart.

    The mass outside the coord ids is summed by itself: 1 − p_coord would lose every digit where p_coord is near 1.
    """
    target_score = scores.gather(1, target[:, None])
    peak = scores.amax(1, keepdim=True)
    scores.sub_(peak).exp_()
    exponentials = scores.index_select(1, ids)
    scores.index_fill_(1, ids, 0.0)
    coord_sum, rest_sum = exponentials.sum(1, keepdim=True), scores.sum(1, keepdim=True)
    total = coord_sum + rest_sum
    shares = _Shares(total, coord_sum / total, rest_sum / total, exponentials)
    ce = total.log() + peak - target_score
    measured = (ce, -torch.log(shares.coord + GATE_EPS), -torch.log(shares.rest + GATE_EPS), shares.coord)
    return tuple(m.squeeze(1) for m in measured), shares


def _differentiate(scores: torch.Tensor, shares: _Shares, coefficients: tuple[torch.Tensor, ...], target: torch.Tensor,
                   ids: torch.Tensor) -> None:
    """Turn a chunk's exponentials into the gradient of the weighted terms with respect to its scores, in place.

    With D = ∂/∂p_coord of both gates: a·(p_v − [v = target]) − D·p_coord·p_v for v outside the coord ids and
    a·(p_v − [v = target]) + D·(1 − p_coord)·p_v inside.
    """
    ce, coord_gate, text_gate = (c[:, None] for c in coefficients)
    slope = text_gate / (shares.rest + GATE_EPS) - coord_gate / (shares.coord + GATE_EPS)
    scores.mul_((ce - slope * shares.coord) / shares.total)
    scores.index_copy_(1, ids, shares.exponentials * ((ce + slope * shares.rest) / shares.total))
    scores.scatter_add_(1, target[:, None], -ce)


def _accumulate(gradients: _Gradients, d_scores: torch.Tensor, rows: torch.Tensor, part: slice, weight: torch.Tensor,
                offset: torch.Tensor | None, ids: torch.Tensor) -> None:
    """Add a chunk's share to each gradient; products run in the head's precision, sums in accumulation precision."""
    exact = d_scores.dtype == weight.dtype
    d = d_scores if exact else d_scores.to(weight.dtype)
    if gradients.hidden is not None:
        gradients.hidden[part] = d @ weight
        if offset is not None:
            gradients.hidden[part] += d.index_select(1, ids) @ offset.to(d.dtype)
    if gradients.weight is not None:
        if exact:
            gradients.weight.addmm_(d.T, rows)
        else:
            gradients.weight.add_(d.T @ rows)
    if gradients.offset is not None:
        gradients.offset.add_(d.index_select(1, ids).T @ rows)
