"""What a scan of an answer finds, and the one error of this package. Contract ids: TEXT-*.

All spans are half-open `(start, end)` character offsets into the scanned text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from coordexp.coords.types import CoordObject, GeometryKind

Span = tuple[int, int]
Fault = Literal[
    "container",
    "syntax",
    "missing_desc",
    "missing_geom",
    "wrong_arity",
    "non_coord_token",
    "unknown_geom",
    "bbox_invalid",
    "key_invalid",
]
_CONTEXT = 30


class CoordJSONError(ValueError):
    """Text that is not a CoordJSON answer.

    `position` is the first character that cannot stand where it stands, `expected` says what can, `fault` is the
    reason under which a dropped object is counted, `excerpt` shows the place (`⟦` marks it).
    """

    def __init__(self, text: str, position: int, expected: str, fault: Fault) -> None:
        self.position = position
        self.expected = expected
        self.fault: Fault = fault
        before, after = text[max(0, position - _CONTEXT) : position], text[position : position + _CONTEXT]
        self.excerpt = f"{before}⟦{after}"
        found = repr(text[position]) if position < len(text) else "the end of the text"
        super().__init__(
            f"CoordJSON, character {position}: expected {expected}, found {found} ({fault}) in {self.excerpt!r}"
        )


@dataclass(frozen=True, slots=True)
class ScannedObject:
    """One object and where it is written.

    `span` covers `{...}`; `desc_span` the desc's characters as escaped, between its quotes; `coord_spans` the coord
    tokens in the order written, one per entry of `item.bins`.
    """

    item: CoordObject
    span: Span
    desc_span: Span
    coord_spans: tuple[Span, ...]

    @property
    def kind(self) -> GeometryKind:
        return self.item.kind

    @property
    def bins(self) -> tuple[int, ...]:
        return self.item.bins


@dataclass(frozen=True, slots=True)
class ScannedAnswer:
    """An answer by its parts: `opening` `{"objects": [`, objects, `separators` between them, `closure` `]}`.

    Whitespace around the answer belongs to no part.
    """

    objects: tuple[ScannedObject, ...]
    opening: Span
    separators: tuple[Span, ...]
    closure: Span
