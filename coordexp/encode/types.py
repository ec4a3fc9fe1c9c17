"""An answer as tokens, typed once and carried along. Contract ids: ENC-*."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from coordexp.coordjson.rollout_types import ParsedRollout
    from coordexp.coords.types import CoordObject, GeometryKind

IGNORE_INDEX = -100


class TokenType(IntEnum):
    """What a token is. Exactly one holds; `OTHER` is everything outside the assistant's answer."""

    OTHER = 0
    STRUCT = 1
    DESC = 2
    COORD = 3
    EOS = 4


class TokenSubset(IntEnum):
    """Which part of the target a token belongs to; the mask table is keyed by it.

    Stage 1 knows `NONE` (prompt) and `GT` alone. The others describe a target in the rollout context.
    """

    NONE = 0
    GT = 1
    MATCHED = 2
    FP = 3
    DROPPED = 4
    FN = 5
    OPENING = 6
    OPENING_INJECTED = 7
    CLOSURE = 8


@dataclass(frozen=True, slots=True)
class ObjectSlots:
    """Where one object's coord tokens lie: `positions` index the row, `bins` are the targets (0..999), same length."""

    kind: GeometryKind
    positions: tuple[int, ...]
    bins: tuple[int, ...]
    subset: TokenSubset = TokenSubset.GT
    row: int = 0


@dataclass(frozen=True, slots=True)
class TypedAnswer:
    """The tokens of an answer without its `<|im_end|>`, whatever wrote them.

    `ids`, `types` and `subsets` have one entry per token; `objects` count positions from the answer's first token;
    `end_subset` is that of the `<|im_end|>` which follows.
    """

    ids: tuple[int, ...]
    types: tuple[TokenType, ...]
    subsets: tuple[TokenSubset, ...]
    objects: tuple[ObjectSlots, ...]
    end_subset: TokenSubset


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of an element of a rollout's prefix: FP, DROPPED, or MATCHED with a ground truth, by its index."""

    subset: TokenSubset
    truth: int | None = None


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """How a response is completed to a target: `parsed` with the elements that are kept, a fate for each of them, and
    the ground truth in the order in which it is answered.
    """

    response: tuple[int, ...]
    parsed: ParsedRollout
    fates: tuple[Fate, ...]
    truths: tuple[CoordObject, ...]

    @property
    def missed(self) -> tuple[CoordObject, ...]:
        """The ground truth that no kept element is: what is appended, in its order."""
        reached = {fate.truth for fate in self.fates}
        return tuple(item for index, item in enumerate(self.truths) if index not in reached)


@dataclass(frozen=True, eq=False)
class EncodedSample:
    """One sample as the model sees it. T tokens, P vision patches, N images.

    `input_ids`, `labels` (IGNORE_INDEX where unsupervised), `token_types`, `subsets`, `mm_token_type_ids`: int64 [T].
    `image_grid_thw`: int64 [N, 3], None without images; `pixel_values`: float32 [P, D], None until they are made.
    `prompt_length` tokens precede the answer; the answer ends with `<|im_end|>`.
    """

    sample_id: str
    input_ids: torch.Tensor
    labels: torch.Tensor
    token_types: torch.Tensor
    subsets: torch.Tensor
    mm_token_type_ids: torch.Tensor
    objects: tuple[ObjectSlots, ...]
    prompt_length: int
    pixel_values: torch.Tensor | None = None
    image_grid_thw: torch.Tensor | None = None

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])
