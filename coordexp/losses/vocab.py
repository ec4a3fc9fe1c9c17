"""Every term that needs the whole vocabulary, in one chunked pass over the rows that have one.

Cross-entropy and both gates have coefficients known before the forward, so the gradients with respect to hidden states
and head are formed chunk by chunk while the scores are at hand, and only scaled in backward; no [T, V] tensor exists.

Contract ids: LOSS-007..009.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from coordexp.forward.head import OutputHead

GATE_EPS = 1e-6
CHUNK_BYTES = 210 * 2**20
# Parts of the vocabulary in which products of another precision are copied: of scores, and of rows of the head.
SCORE_PART, HEAD_PART = 2**14, 2**12


@dataclass(frozen=True, eq=False)
class VocabularyPlan:
    """What to compute. R rows, C coord slots.

    `hidden` [R, H] and `slot_hidden` [C, H] predict them; `target` int64 [R]; `ce`, `coord_gate`, `text_gate` float64
    [R] are the coefficients of each row's terms in the total. Rows from `n_graded` on have none and are measured only.
    """

    hidden: torch.Tensor
    slot_hidden: torch.Tensor
    target: torch.Tensor
    ce: torch.Tensor
    coord_gate: torch.Tensor
    text_gate: torch.Tensor
    n_graded: int


@dataclass(frozen=True, eq=False)
class VocabularyRequest:
    """The plan of a forward that has not run yet: what to score of its hidden states, known from its context alone.

    `rows` int64 [R] and `slots` int64 [C] are flat positions among `n_positions` (B·T); the others are as in
    `VocabularyPlan`.
    """

    n_positions: int
    rows: torch.Tensor
    slots: torch.Tensor
    target: torch.Tensor
    ce: torch.Tensor
    coord_gate: torch.Tensor
    text_gate: torch.Tensor
    n_graded: int

    def slots_alone(self) -> VocabularyRequest:
        """The same slots and no row: coord logits of a forward that has no loss."""
        rows = {name: getattr(self, name)[:0] for name in ("rows", "target", "ce", "coord_gate", "text_gate")}
        return dataclasses.replace(self, **rows, n_graded=0)

    def __call__(self, hidden: torch.Tensor, head: OutputHead) -> tuple[torch.Tensor, ...]:
        """The fields of a `VocabularyOutput` for hidden states [B, T, H]: a computation for the head's place."""
        flat = hidden.flatten(0, 1)
        if flat.shape[0] != self.n_positions:
            raise ValueError(
                f"hidden states for {flat.shape[0]} positions, but the context was built from {self.n_positions}"
            )
        plan = VocabularyPlan(
            hidden=flat.index_select(0, self.rows),
            slot_hidden=flat.index_select(0, self.slots),
            target=self.target,
            ce=self.ce,
            coord_gate=self.coord_gate,
            text_gate=self.text_gate,
            n_graded=self.n_graded,
        )
        output = run_vocabulary_pass(plan, head)
        return tuple(getattr(output, name) for name in OUTPUT_FIELDS)


@dataclass(frozen=True, eq=False)
class VocabularyOutput:
    """`loss`: 0-d, attached to hidden states and head even without rows; `coord_logits` [C, 1000], attached.

    Detached, [R]: `ce` −log p(target), `coord_gate` −log(p_coord + eps), `text_gate` −log(1 − p_coord + eps), and
    `coord_mass` p_coord.
    """

    loss: torch.Tensor
    coord_logits: torch.Tensor
    ce: torch.Tensor
    coord_gate: torch.Tensor
    text_gate: torch.Tensor
    coord_mass: torch.Tensor


OUTPUT_FIELDS = tuple(field.name for field in dataclasses.fields(VocabularyOutput))

Score = Callable[[VocabularyRequest], VocabularyOutput]
"""Runs a forward with the request in the head's place."""


def score_hidden(hidden: torch.Tensor, head: OutputHead) -> Score:
    """Answers requests about hidden states [B, T, H] that are there already, without a model."""
    return lambda request: VocabularyOutput(*request(hidden, head))


def run_vocabulary_pass(plan: VocabularyPlan, head: OutputHead, chunk_bytes: int = CHUNK_BYTES) -> VocabularyOutput:
    """Compute `plan`; gradients reach whichever of hidden states, head weight and coord offset require them.

    Autocast rounds the products over the vocabulary, as it would round a linear layer's, and nothing else.
    """
    leaves = (plan.hidden, plan.slot_hidden, head.weight, head.coord_offset)
    graded = torch.is_grad_enabled() and any(leaf is not None and leaf.requires_grad for leaf in leaves)
    setup = _Setup(plan, head.coord_ids, chunk_bytes, graded, _product_dtype(head.weight))
    return VocabularyOutput(
        *_VocabularyPass.apply(plan.hidden, plan.slot_hidden, head.weight, head.coord_offset, setup)
    )


def _product_dtype(weight: torch.Tensor) -> torch.dtype:
    device = weight.device.type
    if weight.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return weight.dtype
    return torch.get_autocast_dtype(device)


@dataclass(frozen=True, eq=False)
class _Setup:
    """What the pass is given besides the tensors that may need a gradient."""

    plan: VocabularyPlan
    coord_ids: torch.Tensor
    chunk_bytes: int
    graded: bool
    product: torch.dtype
    """Precision in which scores and their gradients are multiplied out: the head's, or autocast's."""


@dataclass(eq=False)
class _Gradients:
    """Buffers in accumulation precision; a None is a leaf that needs no gradient."""

    hidden: torch.Tensor | None
    weight: torch.Tensor | None
    offset: torch.Tensor | None

    @classmethod
    def zeros(cls, hidden: torch.Tensor, head: OutputHead, needs: tuple[bool, ...]) -> _Gradients:
        """`needs` as autograd lists them: hidden, slot_hidden, weight, offset."""
        dtype = _accumulation_dtype(head)
        leaves = ((hidden, needs[0]), (head.weight, needs[2]), (head.coord_offset, needs[3]))
        return cls(
            *(None if x is None or not need else torch.zeros(x.shape, dtype=dtype, device=x.device)
              for x, need in leaves)
        )  # fmt: skip

    def scale(self, factor: torch.Tensor) -> None:
        """Multiply every buffer in place."""
        for buffer in (self.hidden, self.weight, self.offset):
            if buffer is not None:
                buffer.mul_(factor)


class _VocabularyPass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[torch.Tensor, ...]:
        hidden, slot_hidden, weight, offset, setup = inputs
        head = OutputHead(weight, setup.coord_ids, offset)
        needs = ctx.needs_input_grad if setup.graded else (False,) * 4
        with torch.autocast(hidden.device.type, enabled=False):
            loss, stats, gradients = _sweep(hidden, head, setup, needs)
            coord_rows = _coord_rows(head)
            coord_logits = slot_hidden.to(coord_rows.dtype) @ coord_rows.T
        ctx.save_for_backward(hidden, slot_hidden, weight, offset)
        ctx.setup, ctx.gradients = setup, gradients
        ctx.mark_non_differentiable(*stats)
        return (loss, coord_logits, *stats)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, slot_hidden, weight, offset = ctx.saved_tensors
        head, needs = OutputHead(weight, ctx.setup.coord_ids, offset), ctx.needs_input_grad
        gradients: _Gradients | None = ctx.gradients
        # The buffers are scaled in place and handed on, so a retained graph's second backward computes them anew.
        ctx.gradients = None
        with torch.autocast(slot_hidden.device.type, enabled=False):
            if gradients is None:
                gradients = _sweep(hidden, head, ctx.setup, needs)[2]
            gradients.scale(grad_outputs[0])
            grad_coord = grad_outputs[1].to(_accumulation_dtype(head))
            grad_slots = (grad_coord @ _coord_rows(head)).to(slot_hidden.dtype) if needs[1] else None
            if needs[2] or needs[3]:
                by_row = grad_coord.T @ slot_hidden.to(grad_coord.dtype)
                if gradients.weight is not None:
                    gradients.weight.index_add_(0, head.coord_ids, by_row)
                if gradients.offset is not None:
                    gradients.offset.add_(by_row)
        return (
            _as_gradient(gradients.hidden, hidden),
            grad_slots,
            _as_gradient(gradients.weight, weight),
            _as_gradient(gradients.offset, offset),
            None,
        )


def _as_gradient(buffer: torch.Tensor | None, leaf: torch.Tensor | None) -> torch.Tensor | None:
    return None if buffer is None or leaf is None else buffer.to(leaf.dtype)


def _accumulation_dtype(head: OutputHead) -> torch.dtype:
    return torch.float64 if head.weight.dtype == torch.float64 else torch.float32


def _coord_rows(head: OutputHead) -> torch.Tensor:
    rows = head.weight.index_select(0, head.coord_ids).to(_accumulation_dtype(head))
    return rows if head.coord_offset is None else rows + head.coord_offset.to(rows.dtype)


def _sweep(
    hidden: torch.Tensor, head: OutputHead, setup: _Setup, needs: tuple[bool, ...]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], _Gradients]:
    """One pass over the rows: the total, per-row statistics, and the gradients for a unit gradient of the total."""
    plan, dtype = setup.plan, _accumulation_dtype(head)
    head = OutputHead(head.weight.to(setup.product), head.coord_ids, head.coord_offset)
    gradients = _Gradients.zeros(hidden, head, needs)
    differentiate = needs[0] or needs[2] or needs[3]
    coefficients = torch.stack([plan.ce, plan.coord_gate, plan.text_gate]).to(dtype)
    stats = torch.zeros(4, hidden.shape[0], dtype=dtype, device=hidden.device)
    # Beside a head in another precision there may be its copy: less is left for the scores.
    room = setup.chunk_bytes if head.weight.dtype == dtype else 4 * setup.chunk_bytes // 7
    step = max(1, room // (head.weight.shape[0] * dtype.itemsize))
    for part in _chunks(plan.n_graded, hidden.shape[0], step):
        rows = hidden[part].to(head.weight.dtype)
        scores = _scores(rows, head)
        stats[:, part], shares = _measure(scores, plan.target[part], head.coord_ids)
        if differentiate and part.start < plan.n_graded:
            _differentiate(scores, shares, coefficients[:, part], plan.target[part], head.coord_ids)
            _accumulate(gradients, scores, rows, part, head)
        # Otherwise this chunk's scores would live until the next one's replace them: two chunks at a time.
        del scores, shares
    return (coefficients * stats[:3]).sum(), tuple(stats.clone()), gradients


def _chunks(n_graded: int, n_rows: int, step: int) -> list[slice]:
    """Ranges of at most `step` rows, none of which mixes graded and measured rows."""
    return [
        slice(start, min(start + step, high))
        for low, high in ((0, n_graded), (n_graded, n_rows))
        for start in range(low, high, step)
    ]


def _parts(weight: torch.Tensor, dtype: torch.dtype) -> list[slice]:
    """The whole vocabulary, or parts of it where products are not in `dtype`, so that their copies stay small."""
    return [slice(None)] if weight.dtype == dtype else _chunks(0, weight.shape[0], SCORE_PART)


def _scores(rows: torch.Tensor, head: OutputHead) -> torch.Tensor:
    dtype = _accumulation_dtype(head)
    if head.weight.dtype == dtype:
        scores = rows @ head.weight.T
    else:
        scores = torch.empty(rows.shape[0], head.weight.shape[0], dtype=dtype, device=rows.device)
        for ids in _parts(head.weight, dtype):
            scores[:, ids] = rows @ head.weight[ids].T
    if head.coord_offset is not None:
        scores.index_add_(1, head.coord_ids, (rows @ head.coord_offset.to(rows.dtype).T).to(scores.dtype))
    return scores


@dataclass(frozen=True, eq=False)
class _Shares:
    """Of a chunk: the sum of all exponentials, the coord ids' share of it and that of all others [n, 1], and the coord
    ids' exponentials [n, 1000].
    """

    total: torch.Tensor
    coord: torch.Tensor
    rest: torch.Tensor
    exponentials: torch.Tensor


def _measure(scores: torch.Tensor, target: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, _Shares]:
    """Statistics [4, n] of a chunk; turns `scores` into exponentials, with the coord ids' set to 0 and handed back.

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
    gates = (-torch.log(shares.coord + GATE_EPS), -torch.log(shares.rest + GATE_EPS))
    return torch.cat([ce, *gates, shares.coord], dim=1).T, shares


def _differentiate(
    scores: torch.Tensor, shares: _Shares, coefficients: torch.Tensor, target: torch.Tensor, ids: torch.Tensor
) -> None:
    """Turn a chunk's exponentials into the gradient of the weighted terms with respect to its scores, in place.

    With D = ∂/∂p_coord of both gates: a·(p_v − [v = target]) − D·p_coord·p_v for v outside the coord ids and
    a·(p_v − [v = target]) + D·(1 − p_coord)·p_v inside.
    """
    ce, coord_gate, text_gate = coefficients[:, :, None]
    slope = text_gate / (shares.rest + GATE_EPS) - coord_gate / (shares.coord + GATE_EPS)
    scores.mul_((ce - slope * shares.coord) / shares.total)
    scores.index_copy_(1, ids, shares.exponentials * ((ce + slope * shares.rest) / shares.total))
    scores.scatter_add_(1, target[:, None], -ce)


def _accumulate(
    gradients: _Gradients, d_scores: torch.Tensor, rows: torch.Tensor, part: slice, head: OutputHead
) -> None:
    """Add a chunk's share to each gradient; products run in the head's precision, sums in accumulation precision."""
    for ids in _parts(head.weight, d_scores.dtype):
        d = d_scores[:, ids].to(head.weight.dtype)
        if gradients.hidden is not None:
            gradients.hidden[part] += d @ head.weight[ids]
        if gradients.weight is None:
            continue
        if d.dtype == d_scores.dtype:
            gradients.weight[ids].addmm_(d.T, rows)
            continue
        for inner in _chunks(0, d.shape[1], HEAD_PART):
            gradients.weight[ids][inner].add_(d[:, inner].T @ rows)
    if head.coord_offset is None:
        return
    d = d_scores.index_select(1, head.coord_ids).to(head.weight.dtype)
    if gradients.hidden is not None:
        gradients.hidden[part] += d @ head.coord_offset.to(d.dtype)
    if gradients.offset is not None:
        gradients.offset.add_(d.T @ rows)
