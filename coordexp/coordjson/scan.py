"""Answer text in, its parts with character spans out, in time linear in the text. Contract ids: TEXT-003, TEXT-004.

Accepts exactly what `contracts/coordjson/coordjson.lark` does. Each object is one match of a pattern without
backtracking (possessive throughout); where no pattern matches, `faults` says why.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass

from coordexp.coordjson.faults import explain_container, explain_object, explain_tail
from coordexp.coordjson.lexemes import BLANK, BLANKS, COMMA, ESCAPE, WS
from coordexp.coordjson.types import ScannedAnswer, ScannedObject, Span
from coordexp.coords.codec import N_BINS
from coordexp.coords.types import CoordObject

_BIN = r"<\|coord_(0|[1-9][0-9]{0,2}+)\|>"
_ANY_BIN = r"<\|coord_(?:0|[1-9][0-9]{0,2}+)\|>"
_PLAIN = r'[^"\\\x00-\x1f\ud800-\udfff]'
_SOLID = rf'(?:[^"\\\x00-\x1f\ud800-\udfff{BLANKS}]|(?!{BLANK}){ESCAPE})'
_DESC = f'"desc"{WS}:{WS}"({BLANK}*+{_SOLID}(?:{_PLAIN}++|{ESCAPE})*+)"'
_PAIR = f"{_ANY_BIN}{COMMA}{_ANY_BIN}"
_GEOMETRY = (
    rf'(?:"bbox_2d"{WS}:{WS}\[{WS}{_BIN}{COMMA}{_BIN}{COMMA}{_BIN}{COMMA}{_BIN}{WS}\]'
    rf'|"poly"{WS}:{WS}\[{WS}({_PAIR}{COMMA}{_PAIR}{COMMA}{_PAIR}(?:{COMMA}{_PAIR})*+){WS}\])'
)
_END = rf"{WS}(\}}){WS}([,\]]){WS}"
_OPENING = re.compile(rf'{WS}(\{{{WS}"objects"{WS}:{WS}\[){WS}')
_CLOSING = re.compile(rf"(\}}){WS}\Z")
_TOKEN = re.compile(_BIN)
_BINS = {str(k): k for k in range(N_BINS)}
_BEFORE_BIN, _AFTER_BIN = len("<|coord_"), len("|>")


@dataclass(frozen=True, slots=True)
class Layout:
    """One order of the fields: its pattern and the numbers of its groups."""

    pattern: re.Pattern[str]
    desc: int
    box: tuple[int, int, int, int]
    poly: int


_DESC_FIRST = Layout(re.compile(rf"\{{{WS}{_DESC}{COMMA}{_GEOMETRY}{_END}"), 1, (2, 3, 4, 5), 6)
_GEOMETRY_FIRST = Layout(re.compile(rf"\{{{WS}{_GEOMETRY}{COMMA}{_DESC}{_END}"), 6, (1, 2, 3, 4), 5)
_OBJECT_END, _NEXT = 7, 8

Found = tuple[re.Match[str], Layout]


def match_answer(text: str) -> tuple[Span, list[Found], Span]:
    """Opening span, one match per object, closure span. Raises `CoordJSONError` where the text first misfits."""
    opening = _OPENING.match(text)
    if opening is None:
        raise explain_container(text)
    position = opening.end()
    found: list[Found] = []
    bracket = position
    if not text.startswith("]", position):
        likely, other = _DESC_FIRST, _GEOMETRY_FIRST
        while True:
            match = likely.pattern.match(text, position)
            if match is None:
                likely, other = other, likely
                match = likely.pattern.match(text, position)
                if match is None:
                    raise explain_object(text, position)
            found.append((match, likely))
            position = match.end()
            if match[_NEXT] == "]":
                bracket = match.start(_NEXT)
                break
    else:
        position = _skip_whitespace(text, position + 1)
    closing = _CLOSING.match(text, position)
    if closing is None:
        raise explain_tail(text, position)
    return opening.span(1), found, (bracket, closing.end(1))


def scan_answer(text: str) -> ScannedAnswer:
    """Parts of `text` with their spans. Raises `CoordJSONError`; the order of box corners is left to `parse_answer`."""
    opening, found, closure = match_answer(text)
    objects = tuple(_scanned(text, match, layout) for match, layout in found)
    separators = tuple((left.span[1], right.span[0]) for left, right in itertools.pairwise(objects))
    return ScannedAnswer(objects=objects, opening=opening, separators=separators, closure=closure)


def read_object(match: re.Match[str], layout: Layout) -> CoordObject:
    """The object of one match."""
    if layout is _DESC_FIRST:
        desc, x1, y1, x2, y2, poly, _, _ = match.groups()
    else:
        x1, y1, x2, y2, poly, desc, _, _ = match.groups()
    if "\\" in desc:
        desc = unescape(desc)
    if poly is None:
        return CoordObject(desc, "bbox_2d", (_BINS[x1], _BINS[y1], _BINS[x2], _BINS[y2]))
    return CoordObject(desc, "poly", tuple(_BINS[digits] for digits in _TOKEN.findall(poly)))


def unescape(inner: str) -> str:
    """What stands between the quotes of a JSON string, its escapes resolved; `inner` fits the grammar's DESC."""
    return str(json.loads(f'"{inner}"'))


def box_start(match: re.Match[str], layout: Layout) -> int:
    """Where the first coord token of a matched bbox_2d begins."""
    return match.start(layout.box[0]) - _BEFORE_BIN


def _scanned(text: str, match: re.Match[str], layout: Layout) -> ScannedObject:
    item = read_object(match, layout)
    if item.kind == "bbox_2d":
        starts_ends = [match.span(group) for group in layout.box]
        spans = tuple((start - _BEFORE_BIN, end + _AFTER_BIN) for start, end in starts_ends)
    else:
        spans = tuple(token.span() for token in _TOKEN.finditer(text, *match.span(layout.poly)))
    return ScannedObject(item, (match.start(), match.end(_OBJECT_END)), match.span(layout.desc), spans)


def _skip_whitespace(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\n\r":
        position += 1
    return position
