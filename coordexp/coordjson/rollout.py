"""The one parse of a model's answer: token ids in, objects, faults and the append-ready prefix out.

Contract ids: PARSE-*. It works on ids and bytes and re-encodes nothing; structure is read once, from left to right,
without recursion. docs/training/ROLLOUT_PARSE.md says what is decided of every edge.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from coordexp.coordjson.lexemes import WS
from coordexp.coordjson.rollout_objects import Fault, Parts, find_close, read_object, skip_space
from coordexp.coordjson.rollout_types import EXCERPT_LENGTH, NO_CUT, DroppedObject, ParsedObject, ParsedRollout
from coordexp.coordjson.units import UnitText, spell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.coordjson.rollout_types import Failure
    from coordexp.coordjson.units import RolloutVocabulary

_OPENING = re.compile(rf'{WS}\{{{WS}"objects"{WS}:{WS}\[')
_UNWANTED = "poly_unsupported"
_CLOSURE = re.compile(rf"\]{WS}\}}{WS}\Z")

Elements = tuple[ParsedObject | DroppedObject, ...]


def parse_rollout(ids: Sequence[int], vocabulary: RolloutVocabulary, *, allow_poly: bool = False) -> ParsedRollout:
    """Read the response `ids` up to its first control token. Whatever the ids are, nothing is raised.

    Without `allow_poly` a polygon that is valid otherwise is dropped as `poly_unsupported`.
    """
    units = UnitText(ids, vocabulary)
    opening = _OPENING.match(units.text)
    if opening is None:
        open_ended = find_close(units.text, 0, 0) is None
        return ParsedRollout((), units.length, NO_CUT, True, open_ended, False, "invalid_rollout")
    elements, position, comma = _read_elements(units, opening.end(), allow_poly)
    truncated, malformed, failure = _read_tail(units.text, position, comma)
    # A polygon that only this reader does not want is no fault of the answer.
    faults = [found.reason for found in elements if isinstance(found, DroppedObject) and found.reason != _UNWANTED]
    return ParsedRollout(
        elements=elements,
        length=units.length,
        opening=units.cut(opening.end()),
        invalid_rollout=False,
        truncated=truncated,
        malformed_tail=malformed,
        failure=faults[0] if faults else failure,
    )


def _read_elements(units: UnitText, position: int, allow_poly: bool) -> tuple[Elements, int, bool]:
    """The complete objects from `position` on, the first unit after them, and whether a comma stands before it."""
    text, elements, comma = units.text, [], False
    while True:
        position = skip_space(text, position)
        if not text.startswith("{", position):
            break
        end = find_close(text, position, 0)
        if end is None:
            position = len(text)
            break
        elements.append(_place(units, position, end, read_object(text, position, allow_poly)))
        position = skip_space(text, end)
        comma = text.startswith(",", position)
        if not comma:
            break
        position += 1
    return tuple(elements), position, comma


def _read_tail(text: str, position: int, comma: bool) -> tuple[bool, bool, Failure | None]:
    """Whether the text ends before the outermost `}`, whether something cannot stand at `position`, and the failure."""
    if position == len(text):
        return True, False, "truncated"
    truncated = find_close(text, position, 1) is None
    if not text.startswith("]", position):
        return truncated, True, "malformed_tail"
    if comma:
        return truncated, False, "trailing_comma"
    if _CLOSURE.match(text, position):
        return truncated, False, None
    return truncated, False, "truncated" if truncated else "trailing_text"


def _place(units: UnitText, start: int, end: int, found: Parts | Fault) -> ParsedObject | DroppedObject:
    """What was found at the units `start:end`, in tokens."""
    span = units.span(start, end)
    offset, cut = start - units.starts[span[0]], units.cut(end)
    if isinstance(found, Fault):
        excerpt = spell(units.text[found.start : found.end])[:EXCERPT_LENGTH]
        return DroppedObject(found.reason, span, offset, cut, units.span(found.start, found.end), excerpt)
    return ParsedObject(
        item=found.item,
        field_order=found.field_order,
        span=span,
        offset=offset,
        end=cut,
        desc_span=units.span(*found.desc_at),
        coord_positions=tuple([units.token(at) for at in found.coords_at]),
    )
