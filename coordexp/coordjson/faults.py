"""Text that the patterns of `scan` refuse in, the first fault out: where, what was expected, under which name.
Contract ids: TEXT-005.

A plain recursive descent over the same grammar; it runs only when something is wrong.
"""

from __future__ import annotations

import re
from typing import NoReturn

from coordexp.coordjson.lexemes import BLANK, ESCAPE, WS
from coordexp.coordjson.types import CoordJSONError, Fault

GEOMETRY_KEYS = ("bbox_2d", "poly")
FORMER_GEOMETRY_KEYS = ("bbox", "polygon", "line", "point", "geometry", "poly_points", "segmentation")
_WHITESPACE = re.compile(WS)
_STRING_PIECE = re.compile(rf'[^"\\\x00-\x1f\ud800-\udfff]++|{ESCAPE}')
_BLANK_DESC = re.compile(f"{BLANK}*+")
_TOKEN = re.compile(r"<\|coord_(?:0|[1-9][0-9]{0,2}+)\|>")
_BOX_ARITY, _POLY_MINIMUM = 4, 6


class _Reader:
    """A position in a text that moves on over what is right and raises at what is not."""

    def __init__(self, text: str, position: int) -> None:
        self.text = text
        self.position = position

    def fail(self, expected: str, fault: Fault = "syntax") -> NoReturn:
        raise CoordJSONError(self.text, self.position, expected, fault)

    def skip(self) -> None:
        match = _WHITESPACE.match(self.text, self.position)
        assert match is not None  # it matches the empty string
        self.position = match.end()

    def at(self, literal: str) -> bool:
        return self.text.startswith(literal, self.position)

    def take(self, literal: str, expected: str | None = None, fault: Fault = "syntax") -> None:
        if not self.at(literal):
            self.fail(expected or literal, fault)
        self.position += len(literal)

    def string(self, expected: str, fault: Fault) -> str:
        """A JSON string with its quotes; returns what is between them, still escaped."""
        self.take('"', expected, fault)
        start = self.position
        while match := _STRING_PIECE.match(self.text, self.position):
            self.position = match.end()
        inner = self.text[start : self.position]
        self.take('"', "the rest of a JSON string and its closing quote", fault)
        return inner

    def coords(self, key: str) -> None:
        """`[token, token, ...]` of the right length."""
        self.take("[", "[ and coord tokens", "non_coord_token")
        count = 0
        while True:
            self.skip()
            match = _TOKEN.match(self.text, self.position)
            if match is None:
                fault: Fault = "wrong_arity" if self.at("]") and count == 0 else "non_coord_token"
                self.fail("a coord token <|coord_0|> .. <|coord_999|> without leading zeros", fault)
            count += 1
            self.position = match.end()
            self.skip()
            if self.at("]"):
                break
            if key == "bbox_2d" and count == _BOX_ARITY:
                self.fail(f"] after the {_BOX_ARITY} coord tokens of bbox_2d", "wrong_arity")
            self.take(",", ", or ]")
        if key == "bbox_2d" and count != _BOX_ARITY:
            self.fail(f"{_BOX_ARITY} coord tokens in bbox_2d, not {count}", "wrong_arity")
        if key == "poly" and (count < _POLY_MINIMUM or count % 2):
            self.fail(f"an even number of coord tokens, at least {_POLY_MINIMUM}, in poly, not {count}", "wrong_arity")
        self.take("]")


def explain_container(text: str) -> CoordJSONError:
    """The fault in a text that does not begin with `{"objects": [`."""
    reader = _Reader(text, 0)

    def walk() -> None:
        reader.skip()
        reader.take("{", '{"objects": [', "container")
        reader.skip()
        reader.take('"objects"', 'the key "objects"', "container")
        reader.skip()
        reader.take(":", fault="container")
        reader.skip()
        reader.take("[", fault="container")

    return _caught(walk, text)


def explain_object(text: str, position: int) -> CoordJSONError:
    """The fault in the object that begins at `position`, or just after it."""
    reader = _Reader(text, position)

    def walk() -> None:
        _read_object(reader)
        reader.skip()
        if not reader.at(",") and not reader.at("]"):
            reader.fail(", and the next object, or ]")

    return _caught(walk, text)


def explain_tail(text: str, position: int) -> CoordJSONError:
    """The fault after the array's `]`."""
    reader = _Reader(text, position)

    def walk() -> None:
        reader.take("}", "} to close the answer", "container")
        reader.skip()
        if reader.position < len(text):
            reader.fail("the end of the text after the answer's }", "container")

    return _caught(walk, text)


def _read_object(reader: _Reader) -> None:
    reader.take("{", "{ and an object")
    seen: list[str] = []
    while True:
        reader.skip()
        seen.append(_read_field(reader, seen))
        reader.skip()
        if reader.at("}"):
            break
        reader.take(",", ", or }")
        if len(seen) > 1:
            reader.position -= 1
            reader.fail("} after desc and one geometry", "key_invalid")
    if "desc" not in seen:
        reader.fail('the key "desc"', "missing_desc")
    if len(seen) == 1:
        reader.fail("a geometry, bbox_2d or poly", "missing_geom")
    reader.take("}")


def _read_field(reader: _Reader, seen: list[str]) -> str:
    start = reader.position
    key = reader.string('a key: "desc", "bbox_2d" or "poly"', "missing_desc" if reader.at("}") else "key_invalid")
    end = reader.position
    reader.position = start
    if key in seen or (key in GEOMETRY_KEYS and any(other in GEOMETRY_KEYS for other in seen)):
        reader.fail("desc and one geometry, each once", "key_invalid")
    if key in FORMER_GEOMETRY_KEYS:
        reader.fail("bbox_2d or poly as the geometry's key", "unknown_geom")
    if key != "desc" and key not in GEOMETRY_KEYS:
        reader.fail('a key: "desc", "bbox_2d" or "poly"', "key_invalid")
    reader.position = end
    reader.skip()
    reader.take(":")
    reader.skip()
    if key != "desc":
        reader.coords(key)
    elif _BLANK_DESC.fullmatch(reader.string("a string as the desc", "missing_desc")):
        reader.position -= 1
        reader.fail("a desc of more than whitespace", "missing_desc")
    return key


def _caught(walk: object, text: str) -> CoordJSONError:
    assert callable(walk)
    try:
        walk()
    except CoordJSONError as error:
        return error
    raise AssertionError(f"the patterns refuse what the descent accepts: {text!r}")
