"""The grammar of contracts/coordjson/ as the oracle of the hand-written scanner, in both directions."""

from __future__ import annotations

import json
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.lark import from_lark
from lark import Lark, Tree, UnexpectedInput

from coordexp.coordjson import CoordJSONError, parse_answer, render_answer, scan_answer, transpile
from coordexp.coords.codec import parse_coord_token
from coordexp.coords.types import CoordObject
from coordexp.spec import read_grammar
from tests.strategies import FIELD_ORDERS, coord_objects

ANSWERS = st.lists(coord_objects(), max_size=4)


@lru_cache(maxsize=1)
def grammar() -> Lark:
    return Lark(read_grammar("coordjson"), parser="lalr", lexer="contextual")


def oracle(text: str) -> tuple[CoordObject, ...] | None:
    """Objects that the grammar's tree spells, or None when it refuses."""
    try:
        tree = grammar().parse(text)
    except UnexpectedInput:
        return None
    return tuple(object_of(node) for node in tree.children)


def object_of(node: Tree) -> CoordObject:
    fields = {str(child.data): child.children for child in node.children}
    desc = json.loads(str(fields.pop("desc")[0]))
    [(kind, tokens)] = fields.items()
    return CoordObject(desc, kind, tuple(parse_coord_token(str(token)) for token in tokens))


def scanned(text: str) -> tuple[CoordObject, ...] | None:
    try:
        return tuple(found.item for found in scan_answer(text).objects)
    except CoordJSONError as error:
        assert 0 <= error.position <= len(text)
        return None


def has_ordered_boxes(objects: tuple[CoordObject, ...]) -> bool:
    boxes = [item.bins for item in objects if item.kind == "bbox_2d"]
    return all(x1 <= x2 and y1 <= y2 for x1, y1, x2, y2 in boxes)


@pytest.mark.invariant("TEXT-003")
@given(from_lark(grammar()))
def test_whatever_the_grammar_generates_is_scanned_to_the_same_objects(text: str) -> None:
    expected = oracle(text)
    assert expected is not None
    assert scanned(text) == expected


FRAGMENTS = st.sampled_from(
    [
        *'{}[]",: \n\\0129é',
        "\x00",
        "\xa0",
        "\ud800",
        "<|coord_0|>",
        "<|coord_1000|>",
        "<|coord_05|>",
        "<|coord_",
        "|>",
        ", ",
        '"desc"',
        '"bbox_2d"',
        '"poly"',
        '"desc": "a"',
        "]}",
        "{}",
        "\\u00e9",
        "\\ud83d",
        "\\ude00",
        "\\x",
        "null",
    ]
)


@st.composite
def mutated_answers(draw: st.DrawFn) -> str:
    text = render_answer(draw(ANSWERS), draw(FIELD_ORDERS))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + draw(st.sampled_from([0, 1, 2, 12])))))
        kept = draw(st.sampled_from(["", text[start:end] * 2, None]))
        text = text[:start] + (draw(FRAGMENTS) if kept is None else kept) + text[end:]
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


@pytest.mark.invariant("TEXT-003")
@given(mutated_answers())
def test_a_mutated_answer_is_scanned_exactly_when_the_grammar_accepts_it(text: str) -> None:
    assert scanned(text) == oracle(text)


@pytest.mark.invariant("TEXT-007")
@given(mutated_answers())
def test_the_strict_parse_adds_the_order_of_corners_and_nothing_else(text: str) -> None:
    expected = oracle(text)
    if expected is not None and has_ordered_boxes(expected):
        assert parse_answer(text) == expected
    else:
        with pytest.raises(CoordJSONError):
            parse_answer(text)


@pytest.mark.invariant("TEXT-006")
@given(ANSWERS, FIELD_ORDERS)
def test_rendered_objects_parse_back_equal(objects: list[CoordObject], order: str) -> None:
    assert parse_answer(render_answer(objects, order)) == tuple(objects)


@pytest.mark.invariant("TEXT-004")
@given(ANSWERS, FIELD_ORDERS)
def test_the_parts_tile_the_text_and_spell_what_they_name(objects: list[CoordObject], order: str) -> None:
    text = render_answer(objects, order)
    scan = scan_answer(text)
    tiles = sorted([scan.opening, *(found.span for found in scan.objects), *scan.separators, scan.closure])
    assert "".join(text[start:end] for start, end in tiles) == text
    for found, item in zip(scan.objects, objects, strict=True):
        assert json.loads('"' + text[slice(*found.desc_span)] + '"') == item.desc
        assert tuple(parse_coord_token(text[slice(*span)]) for span in found.coord_spans) == item.bins


@pytest.mark.invariant("TEXT-008")
@given(ANSWERS, FIELD_ORDERS)
def test_transpiled_text_is_strict_json_with_the_same_integers(objects: list[CoordObject], order: str) -> None:
    read = json.loads(transpile(render_answer(objects, order)))
    assert read == {"objects": [{"desc": item.desc, item.kind: list(item.bins)} for item in objects]}


@pytest.mark.invariant("TEXT-001")
@given(ANSWERS, FIELD_ORDERS)
def test_canonical_text_has_one_spelling_of_whitespace_and_escapes(objects: list[CoordObject], order: str) -> None:
    """Read by Python's JSON writer, which was told of no separators: its defaults are the canonical ones."""
    text = render_answer(objects, order)
    assert json.dumps(json.loads(transpile(text)), ensure_ascii=False) == transpile(text)
