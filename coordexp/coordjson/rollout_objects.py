"""One object of a rollout, read in units: its parts where it is valid, else the first fault in reading order.

Contract ids: PARSE-003, PARSE-004. Each member of a valid object is one match of a pattern without backtracking; where
the pattern does not match, `_find_fault` walks through the member to say why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.coordjson.faults import FORMER_GEOMETRY_KEYS, GEOMETRY_KEYS
from coordexp.coordjson.lexemes import COMMA, ESCAPE, WS
from coordexp.coordjson.scan import unescape
from coordexp.coordjson.units import COORDS, bin_of, spell
from coordexp.coords.types import CoordObject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.coordjson.render import FieldOrder
    from coordexp.coordjson.rollout_types import DropReason
    from coordexp.coordjson.types import Span
    from coordexp.coords.types import GeometryKind

_STRING_BODY = rf'(?:[^"\\\x00-\x1f]++|{ESCAPE})*+'
_COORD_LIST = rf"(?:[{COORDS}](?:{COMMA}[{COORDS}])*+)?+"
_MEMBER = re.compile(
    rf'{WS}"(?:desc"{WS}:{WS}"({_STRING_BODY})"|(bbox_2d|poly)"{WS}:{WS}\[{WS}({_COORD_LIST}){WS}\]){WS}([,}}])'
)
_DESC, _KIND, _LIST = 1, 2, 3
_COORD = re.compile(f"[{COORDS}]")
_KEY = re.compile(rf'"({_STRING_BODY})"')
_COLON = re.compile(f"{WS}:{WS}")
_COORDS = re.compile(rf"\[{WS}({_COORD_LIST}){WS}")
_SPACE = re.compile(WS)
# What is shown of a fault: a string to its end, a list of coords, a sign, or whatever else stands together.
_LEXEME = re.compile(
    rf'"(?:[^"\\]++|\\.)*+"?|\[[{COORDS}, \t\n\r]*+\]|[{COORDS}{{}}\[\],:]|[^ \t\n\r"{COORDS}{{}}\[\],:]++', re.DOTALL
)
_TO_BRACE = re.compile(r'[^"{}]*+(?:"(?:[^"\\]++|\\.)*+"[^"{}]*+)*+([{}])', re.DOTALL)
_BOX_ARITY, _POLY_MINIMUM = 4, 6
_GEOMETRY_STEMS = ("bbox", "poly")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an object is dropped; the units `start:end` show it."""

    reason: DropReason
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Parts:
    """A valid object, and in units: where its desc's value is written, and where each coord token is."""

    item: CoordObject
    field_order: FieldOrder
    desc_at: Span
    coords_at: Sequence[int]


def skip_space(text: str, position: int) -> int:
    """The first unit from `position` on that is no JSON whitespace."""
    match = _SPACE.match(text, position)
    assert match is not None  # it matches the empty string
    return match.end()


def find_close(text: str, position: int, depth: int) -> int | None:
    """Just after the `}` that closes `depth` open braces, counted outside strings; None when there is none.

    `position` is outside any string. With depth 0 it is the `}` that closes the first `{` which any closes.
    """
    while match := _TO_BRACE.match(text, position):
        position = match.end()
        if match[1] == "{":
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                return position
    return None


def read_object(text: str, start: int, allow_poly: bool) -> Parts | Fault:
    """The object whose `{` is at `start` and whose `}` is there too."""
    desc: tuple[str, Span, FieldOrder] | None = None
    geometry: tuple[list[int], re.Match[str]] | None = None
    position = start + 1
    while member := _MEMBER.match(text, position):
        raw, kind, _, stop = member.groups()
        if kind is None:
            value = _read_desc(raw)
            if desc is not None or not value:
                break
            desc = value, member.span(_DESC), "desc_first" if geometry is None else "geometry_first"
        else:
            coords = [unit.start() for unit in _COORD.finditer(text, *member.span(_LIST))]
            if geometry is not None or not _has_arity(kind, len(coords)):
                break
            geometry = coords, member
        position = member.end()
        if stop == "}":
            if desc is None or geometry is None:
                return Fault("missing_desc" if desc is None else "missing_geom", start, position)
            return _judge(text, desc, geometry, allow_poly)
    return _find_fault(text, start, position, (desc is not None, geometry is not None))


def _judge(
    text: str, desc: tuple[str, Span, FieldOrder], geometry: tuple[list[int], re.Match[str]], allow_poly: bool
) -> Parts | Fault:
    """What may still be wrong with an object that has everything: a kind that is not wanted, corners out of order."""
    (value, desc_at, order), (coords_at, member) = desc, geometry
    kind: GeometryKind = "poly" if member[_KIND] == "poly" else "bbox_2d"
    if kind == "poly" and not allow_poly:
        return Fault("poly_unsupported", *member.span(_KIND))
    bins = tuple([bin_of(text[at]) for at in coords_at])
    if kind == "bbox_2d" and (bins[0] > bins[2] or bins[1] > bins[3]):
        return Fault("bbox_invalid", *member.span(_LIST))
    return Parts(CoordObject(value, kind, bins), order, desc_at, coords_at)


def _read_desc(raw: str) -> str:
    """The text of a desc's value, "" when that is whitespace alone."""
    value = spell(raw)
    if "\\" in value:
        value = unescape(value)
    return value if value.strip() else ""


def _has_arity(kind: str, count: int) -> bool:
    return count == _BOX_ARITY if kind == "bbox_2d" else count >= _POLY_MINIMUM and count % 2 == 0


def _find_fault(text: str, start: int, position: int, seen: tuple[bool, bool]) -> Fault:
    """The fault in the member after `position` of the object at `start`, which has `seen` a desc, a geometry."""
    at = skip_space(text, position)
    if position == start + 1 and text.startswith("}", at):
        return Fault("missing_desc", start, at + 1)
    key = _KEY.match(text, at)
    if key is None:
        return _at_lexeme("key_invalid", text, at)
    reason = _fault_of_key(key[1], *seen)
    if reason is not None:
        return Fault(reason, at, key.end())
    colon = _COLON.match(text, key.end())
    if colon is None:
        return _at_lexeme("key_invalid", text, skip_space(text, key.end()))
    fault, end = (_fault_of_desc if key[1] == "desc" else _fault_of_geometry)(text, colon.end(), key[1])
    return fault or _at_lexeme("key_invalid", text, skip_space(text, end))


def _fault_of_key(name: str, has_desc: bool, has_geometry: bool) -> DropReason | None:
    if name == "desc":
        return "key_invalid" if has_desc else None
    if name in GEOMETRY_KEYS:
        return "key_invalid" if has_geometry else None
    former = name in FORMER_GEOMETRY_KEYS or name.startswith(_GEOMETRY_STEMS)
    return "unknown_geom" if former else "key_invalid"


def _fault_of_desc(text: str, at: int, _: str) -> tuple[Fault | None, int]:
    """The fault of a desc's value, and where the value ends when there is none."""
    string = _KEY.match(text, at)
    if string is None or not _read_desc(string[1]):
        return _at_lexeme("missing_desc", text, at), at
    return None, string.end()


def _fault_of_geometry(text: str, at: int, kind: str) -> tuple[Fault | None, int]:
    """The fault of a geometry's value, and where the value ends when there is none. Arity is judged at the `]`."""
    coords = _COORDS.match(text, at)
    if coords is None:
        return _at_lexeme("non_coord_token", text, at), at
    count, end = len(_COORD.findall(coords[1])), coords.end()
    if text.startswith("]", end):
        wrong = not _has_arity(kind, count)
        return (Fault("wrong_arity", at, end + 1) if wrong else None), end + 1
    comma = count > 0 and text.startswith(",", end)
    return _at_lexeme("non_coord_token", text, skip_space(text, end + 1) if comma else end), end


def _at_lexeme(reason: DropReason, text: str, at: int) -> Fault:
    lexeme = _LEXEME.match(text, at)
    assert lexeme is not None  # the object's own brace at the latest
    return Fault(reason, at, lexeme.end())
