"""What a rollout's parse finds: objects, dropped ones, and where the answer may be taken up again.

Contract ids: PARSE-*.

A span is a half-open range `(start, end)` of token indices into the response; neighbours may share a token (`},{"`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordexp.coordjson.render import FieldOrder
    from coordexp.coordjson.types import Span
    from coordexp.coords.types import CoordObject

DropReason = Literal[
    "missing_desc",
    "missing_geom",
    "wrong_arity",
    "non_coord_token",
    "poly_unsupported",
    "unknown_geom",
    "bbox_invalid",
    "key_invalid",
]
DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)
Failure = Literal["invalid_rollout", DropReason, "malformed_tail", "truncated", "trailing_comma", "trailing_text"]
"""Why a whole answer is not strictly well-formed: the first fault in reading order."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A place to end the response: after `tokens` tokens, of the last of which only the first `offset` bytes are kept.

    `kept` are those bytes: what is appended is encoded together with them, and every token before stays as it is.
    """

    tokens: int
    offset: int
    kept: bytes


NO_CUT = Cut(0, 0, b"")
"""The cut of a response of which nothing is kept."""


@dataclass(frozen=True, slots=True)
class ParsedObject:
    """A valid object. `item` holds its desc unescaped and not stripped, its kind and its bins.

    `span` are the tokens that hold any byte of `{...}`, whose `{` comes `offset` bytes into the first of them;
    `desc_span` those that hold any byte of the desc's value; `coord_positions` the tokens of `item.bins`, in that
    order. `end` is the cut just after its `}`.
    """

    item: CoordObject
    field_order: FieldOrder
    span: Span
    offset: int
    end: Cut
    desc_span: Span
    coord_positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DroppedObject:
    """An object with a fault, left out and never repaired. `span`, `offset` and `end` as in `ParsedObject`.

    `offending` are the tokens of the fault (of the whole object where a key is missing), `excerpt` what is written
    there, cut to `EXCERPT_LENGTH` characters.
    """

    reason: DropReason
    span: Span
    offset: int
    end: Cut
    offending: Span
    excerpt: str


EXCERPT_LENGTH = 120


@dataclass(frozen=True, slots=True)
class ParsedRollout:
    """A response, read once. `elements` are its complete objects in order of appearance, valid or dropped.

    `length` counts the tokens before the first control token, `opening` is the cut just after `[`. An
    `invalid_rollout` has no container: no elements, and nothing of it is kept. `truncated` says that the text ends
    before the outermost `}`, `malformed_tail` that reading stopped at a bad separator or an element that is no
    object. `failure` is None for a strictly well-formed answer.
    """

    elements: tuple[ParsedObject | DroppedObject, ...]
    length: int
    opening: Cut
    invalid_rollout: bool
    truncated: bool
    malformed_tail: bool
    failure: Failure | None

    @property
    def objects(self) -> tuple[ParsedObject, ...]:
        """The valid objects."""
        return tuple(element for element in self.elements if isinstance(element, ParsedObject))

    @property
    def dropped(self) -> tuple[DroppedObject, ...]:
        """The dropped objects."""
        return tuple(element for element in self.elements if isinstance(element, DroppedObject))

    @property
    def strict(self) -> bool:
        """Whether the whole answer is strictly well-formed, as `parse_answer` demands of its text."""
        return self.failure is None

    @property
    def prefix(self) -> Cut:
        """The append-ready prefix: up to the `}` of the last element, or to the `[` when there is none."""
        return self.elements[-1].end if self.elements else self.opening

    @property
    def drop_counts(self) -> Mapping[DropReason, int]:
        """Dropped objects under each reason, zeros included."""
        counts = Counter(element.reason for element in self.dropped)
        return {reason: counts[reason] for reason in DROP_REASONS}
