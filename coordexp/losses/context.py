"""A packed batch in, the packing-safe views that loss modules see out.

Positions are flat (`row * T + p`). The token at `p` is predicted by the hidden state at `p - 1` of the same segment.

Contract ids: LOSS-002, LOSS-004.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coordexp.encode.types import IGNORE_INDEX, ObjectSlots, TokenSubset, TokenType
from coordexp.losses.masks import KNOWN_SUBSETS, ContextKind, Provenance, weight_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.losses.specs.types import MaskWeights
    from coordexp.packing.types import PackedBatch, Segment

_NAMED = 8
_SUPERVISED_OBJECTS = (TokenSubset.GT, TokenSubset.MATCHED, TokenSubset.FN)


@dataclass(frozen=True, eq=False)
class TeacherForcingContext:
    """What one forward is asked to predict. P = B·T positions, N weighted tokens, C coord slots, M boxes, R rows of the
    vocabulary pass.

    `segments` say which sample lies where. `token_types`, `token_subsets` int64 [P]: every position of the batch.
    `predict`, `target`, `types` int64 [N] and `weight` float64 [N]: tokens with a positive cross-entropy weight,
    `predict` being where the hidden state lies. `slot_predict`, `slot_bins` int64 [C]: coord tokens of supervised
    objects and their target bins. `boxes` int64 [M, 4]: slots of each box as x1, y1, x2, y2. `rows` int64 [R]:
    `predict`, then the slots not among it; `slot_rows` int64 [C] finds each slot in it.
    """

    provenance: Provenance
    segments: tuple[Segment, ...]
    token_types: torch.Tensor
    token_subsets: torch.Tensor
    predict: torch.Tensor
    target: torch.Tensor
    types: torch.Tensor
    weight: torch.Tensor
    slot_predict: torch.Tensor
    slot_bins: torch.Tensor
    boxes: torch.Tensor
    rows: torch.Tensor
    slot_rows: torch.Tensor

    @property
    def kind(self) -> ContextKind:
        """gt, self_context or rollout."""
        return self.provenance.kind

    @property
    def n_positions(self) -> int:
        """B·T: as many hidden states as the context was built for."""
        return self.token_types.numel()

    @property
    def takes_coord_losses(self) -> bool:
        """Whether geometry and coordinate terms are computed from this forward."""
        return self.provenance.takes_coord_losses

    def of_type(self, *types: TokenType) -> torch.Tensor:
        """Mask [N] of the weighted tokens that have one of `types`."""
        return _among(self.types, types)

    def of_subset(self, *subsets: TokenSubset) -> torch.Tensor:
        """Mask [N] of the weighted tokens that lie in one of `subsets`."""
        return _among(self.token_subsets[self.predict + 1], subsets)

    def slots_of(self, *subsets: TokenSubset) -> torch.Tensor:
        """Mask [C] of the coord slots whose object lies in one of `subsets`."""
        return _among(self.token_subsets[self.slot_predict + 1], subsets)

    def describe(self) -> str:
        """What an error needs to say of this forward: its context, its sizes, and the first samples."""
        names = [segment.sample_id for segment in self.segments]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return (
            f"the {self.kind} context ({self.provenance}; {self.predict.shape[0]} weighted tokens, "
            f"{self.slot_bins.shape[0]} coord slots, {self.boxes.shape[0]} boxes) of samples "
            f"{', '.join(names[:_NAMED]) or 'none'}{more}"
        )

    @property
    def text(self) -> torch.Tensor:
        """Mask [N] of struct and desc tokens: the positions of the text gate."""
        return self.of_type(TokenType.STRUCT, TokenType.DESC)

    def to(self, device: torch.device | str) -> TeacherForcingContext:
        """The same context with its tensors on `device`."""
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), torch.Tensor)
        }
        return dataclasses.replace(self, **moved)


def _among(values: torch.Tensor, wanted: Sequence[int]) -> torch.Tensor:
    mask = torch.zeros_like(values, dtype=torch.bool)
    for value in wanted:
        mask |= values == int(value)
    return mask


def build_context(batch: PackedBatch, provenance: Provenance, weights: MaskWeights) -> TeacherForcingContext:
    """Derive the views of `batch` for one forward; cheapest on the CPU, before the batch moves to its device.

    Raises `ValueError` for a subset that the context doesn't know and for a coord slot that no hidden state of its
    segment predicts.
    """
    supervised = _supervised(batch)
    _check_subsets(batch, supervised, provenance)
    weight = weight_table(provenance.kind, weights).to(batch.input_ids.device)[batch.subsets, batch.token_types]
    weight = torch.where(supervised, weight * _struct_multiplier(batch, weights), 0.0).flatten()
    target_at = torch.nonzero(weight > 0).flatten()
    predict = target_at - 1
    slot_at, slot_bins, boxes = _coord_slots(batch, supervised)
    rows, slot_rows = _rows(predict, slot_at - 1)
    return TeacherForcingContext(
        provenance=provenance,
        segments=batch.segments,
        token_types=batch.token_types.flatten(),
        token_subsets=batch.subsets.flatten(),
        predict=predict,
        target=batch.input_ids.flatten()[target_at],
        types=batch.token_types.flatten()[target_at],
        weight=weight[target_at],
        slot_predict=slot_at - 1,
        slot_bins=slot_bins,
        boxes=boxes,
        rows=rows,
        slot_rows=slot_rows,
    )


def _supervised(batch: PackedBatch) -> torch.Tensor:
    """Mask [B, T] of answer tokens that a hidden state of their own segment predicts.

    Coord tokens are among them whatever their label says: labels serve cross-entropy on text.
    """
    inside = torch.zeros_like(batch.labels, dtype=torch.bool)
    for segment in batch.segments:
        inside[segment.row, segment.start + max(1, segment.prompt_length) : segment.end] = True
    wanted = (batch.labels != IGNORE_INDEX) | (batch.token_types == TokenType.COORD)
    return inside & wanted & (batch.token_types != TokenType.OTHER)


def _check_subsets(batch: PackedBatch, supervised: torch.Tensor, provenance: Provenance) -> None:
    known = KNOWN_SUBSETS[provenance.kind]
    found = {TokenSubset(value) for value in batch.subsets[supervised].unique().tolist()}
    if strange := sorted(found - set(known)):
        names = ", ".join(subset.name for subset in strange)
        raise ValueError(
            f"context {provenance.kind} ({provenance}) does not know subset {names}; "
            f"it knows {', '.join(subset.name for subset in known)}: was the batch built for another context?"
        )


def _struct_multiplier(batch: PackedBatch, weights: MaskWeights) -> torch.Tensor:
    """Factor [B, T] on struct tokens of the segments in which an invalid object was dropped; 1 elsewhere."""
    factor = torch.ones(batch.input_ids.shape, dtype=torch.float64, device=batch.input_ids.device)
    multiplier = weights.rollout_drop_invalid_struct_ce_multiplier
    if multiplier == 1.0:
        return factor
    for segment in batch.segments:
        part = (segment.row, slice(segment.start, segment.end))
        if bool((batch.subsets[part] == TokenSubset.DROPPED).any()):
            factor[part] = torch.where(batch.token_types[part] == TokenType.STRUCT, multiplier, 1.0).to(factor.dtype)
    return factor


def _coord_slots(batch: PackedBatch, supervised: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Flat positions [C] of the supervised objects' coord tokens, target bins [C], and slots [M, 4] of the boxes."""
    width = batch.input_ids.shape[1]
    positions: list[int] = []
    bins: list[int] = []
    boxes: list[list[int]] = []
    for item in batch.objects:
        if item.subset not in _SUPERVISED_OBJECTS:
            continue
        if item.kind == "bbox_2d":
            boxes.append(list(range(len(positions), len(positions) + 4)))
        positions += [item.row * width + p for p in _check_slots(item)]
        bins += item.bins
    device = batch.input_ids.device
    at = torch.tensor(positions, dtype=torch.int64, device=device)
    usable = supervised.flatten()[at] & (batch.token_types.flatten()[at] == TokenType.COORD)
    if not bool(usable.all()):
        where = int(at[~usable][0])
        raise ValueError(
            f"row {where // width}, position {where % width}: a coord slot must be a supervised coord token of the "
            "answer, after the first token of its segment"
        )
    return (
        at,
        torch.tensor(bins, dtype=torch.int64, device=device),
        torch.tensor(boxes, dtype=torch.int64, device=device).reshape(-1, 4),
    )


def _check_slots(item: ObjectSlots) -> tuple[int, ...]:
    count = len(item.positions)
    if count != len(item.bins) or (item.kind == "bbox_2d" and count != 4) or not all(0 <= k <= 999 for k in item.bins):
        raise ValueError(
            f"{item.kind} at positions {item.positions} has bins {item.bins}: one bin in 0..999 per position, "
            "four for a bbox_2d"
        )
    return item.positions


def _rows(predict: torch.Tensor, slot_predict: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Union of both, `predict` first, and where each slot lies in it."""
    extra = slot_predict[~torch.isin(slot_predict, predict)].unique()
    rows = torch.cat([predict, extra])
    order = rows.argsort()
    return rows, order[torch.searchsorted(rows[order], slot_predict)]
