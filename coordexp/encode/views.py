"""A sample in, what its tokens say about its parts out: views that are derived where they are wanted, and never stored.

Contract ids: TGT-011. Both stage-2 trainers make their samples alike, so these hold for either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.encode.types import TokenSubset, TokenType

if TYPE_CHECKING:
    from coordexp.encode.types import EncodedSample, ObjectSlots

_WRITTEN = (TokenSubset.OPENING, TokenSubset.MATCHED, TokenSubset.FP, TokenSubset.DROPPED)


@dataclass(frozen=True, slots=True)
class RolloutView:
    """The parts of a rollout's target.

    `prompt_len` tokens of prompt, then `prefix_len` whose owner the rollout wrote (a fused seam among them), then the
    tail: `train_len` is both with `<|im_end|>`. `prefix_struct_pos` are the matched objects' struct tokens, counted
    from the prefix's first token; `tail_desc_pos` the desc tokens of missed objects, counted from the tail's first.
    The groups hold the boxes that are supervised, matched ones aiming at ground truth; positions in them, and in
    `coord_slots` (position and target bin of every coord token of a group), count from the sample's first token.
    """

    prompt_len: int
    prefix_len: int
    train_len: int
    prefix_struct_pos: tuple[int, ...]
    tail_desc_pos: tuple[int, ...]
    bbox_groups_prefix: tuple[ObjectSlots, ...]
    bbox_groups_fn: tuple[ObjectSlots, ...]

    @property
    def coord_slots(self) -> tuple[tuple[int, int], ...]:
        """Position and target bin of each supervised coord token, in the order of the target."""
        groups = (*self.bbox_groups_prefix, *self.bbox_groups_fn)
        return tuple(pair for item in groups for pair in zip(item.positions, item.bins, strict=True))


def view_rollout(sample: EncodedSample) -> RolloutView:
    """The parts of a sample whose answer is a rollout's target; an invalid rollout's has a prefix of no tokens."""
    start = sample.prompt_length
    types, subsets = sample.token_types.tolist()[start:], sample.subsets.tolist()[start:]
    written = [subset in _WRITTEN for subset in subsets]
    prefix = written.index(False)
    cells = list(zip(types, subsets, strict=True))
    matched, missed = (TokenType.STRUCT, TokenSubset.MATCHED), (TokenType.DESC, TokenSubset.FN)
    boxes = [item for item in sample.objects if item.kind == "bbox_2d"]
    return RolloutView(
        prompt_len=start,
        prefix_len=prefix,
        train_len=types.index(TokenType.EOS) + 1,
        prefix_struct_pos=tuple(at for at, cell in enumerate(cells[:prefix]) if cell == matched),
        tail_desc_pos=tuple(at for at, cell in enumerate(cells[prefix:]) if cell == missed),
        bbox_groups_prefix=tuple(item for item in boxes if item.subset is TokenSubset.MATCHED),
        bbox_groups_fn=tuple(item for item in boxes if item.subset is TokenSubset.FN),
    )
