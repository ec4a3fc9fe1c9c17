"""Coord logits [C, 1000] in, one value per coord slot out: every coordinate term and the decode.

Bins k stand for k/999; all values are in [0, 1] unless they count bins. Each function states its own formula.

Contract ids: LOSS-010..012.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from coordexp.coords.codec import MAX_BIN, N_BINS

if TYPE_CHECKING:
    from coordexp.losses.specs.types import DecodeMode


def bin_values(like: torch.Tensor) -> torch.Tensor:
    """Values [1000] of the bins, k/999, in the precision and on the device of `like`; rounded once, at the end."""
    exact = torch.promote_types(like.dtype, torch.float32)
    return (torch.arange(N_BINS, dtype=exact, device=like.device) / MAX_BIN).to(like.dtype)


def gaussian_target(bins: torch.Tensor, sigma: float, truncate: int | None, dtype: torch.dtype) -> torch.Tensor:
    """Distribution [C, 1000] around `bins` [C]: exp(−(k − t)²/2σ²), zero beyond `truncate` bins, summing to 1."""
    exact = torch.promote_types(dtype, torch.float32)
    distance = torch.arange(N_BINS, dtype=exact, device=bins.device) - bins[:, None].to(exact)
    mass = torch.exp(-distance.square() / (2.0 * sigma**2))
    if truncate is not None:
        mass = torch.where(distance.abs() <= truncate, mass, 0.0)
    return (mass / mass.sum(-1, keepdim=True)).to(dtype)


def soft_cross_entropy(log_p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """−Σ_k q_k log p_k, [C]."""
    return -(target * log_p).sum(-1)


def wasserstein(p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """W1 on the line: Σ_k |CDF_p(k) − CDF_q(k)| / 999, [C]; 0 when both are equal."""
    return (p - target).cumsum(-1)[..., :-1].abs().sum(-1) / MAX_BIN


def entropy(log_p: torch.Tensor) -> torch.Tensor:
    """−Σ_k p_k log p_k in nats, [C]."""
    return -(log_p.exp() * log_p).sum(-1)


def cross_entropy(log_p: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """−log p at the target bin, [C]: over the 1000 coord ids, not the vocabulary."""
    return -log_p.gather(-1, bins[:, None]).squeeze(-1)


def expected_l1(p: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """Σ_k p_k |v_k − v*|, [C]."""
    return (p * offsets(p, bins).abs()).sum(-1)


def expected_huber(p: torch.Tensor, bins: torch.Tensor, delta: float) -> torch.Tensor:
    """Σ_k p_k huber_δ(v_k − v*), [C]: d²/2 within δ, δ(|d| − δ/2) beyond."""
    distance = offsets(p, bins).abs()
    return (p * torch.where(distance <= delta, 0.5 * distance.square(), delta * (distance - 0.5 * delta))).sum(-1)


def offsets(p: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """v_k − v*, [C, 1000], in the precision of `p`."""
    values = bin_values(p)
    return values - values[bins][:, None]


def decode(p: torch.Tensor, mode: DecodeMode) -> torch.Tensor:
    """Coordinates [C] in [0, 1]. `exp`: Σ p_k v_k. `st`: the most likely bin's value, with the gradient of `exp`."""
    values = bin_values(p)
    soft = p @ values
    return soft if mode == "exp" else _straight_through(values[p.argmax(-1)], soft)


def embed_coords(p: torch.Tensor, rows: torch.Tensor, mode: str) -> torch.Tensor:
    """Context embeddings [C, H] for coord slots from `p` [C, 1000] and the coord rows [1000, H] of the embedding.

    `soft`: Σ p_k E_k. `hard`: the most likely row, no gradient to `p`. `st`: the hard row forward, the gradient of
    soft. In the rows' precision; the sum runs in the finer of both.
    """
    if mode not in ("soft", "st", "hard"):
        raise ValueError(f"coord_ctx_embed_mode {mode!r} is unknown; use soft, st or hard")
    if mode == "hard":
        return rows[p.argmax(-1)]
    finer = torch.promote_types(p.dtype, rows.dtype)
    soft = (p.to(finer) @ rows.to(finer)).to(rows.dtype)
    return soft if mode == "soft" else _straight_through(rows[p.argmax(-1)], soft)


def _straight_through(hard: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    # `soft - soft.detach()` is exactly zero, so the forward value is the hard one to the last bit.
    return hard.detach() + (soft - soft.detach())
