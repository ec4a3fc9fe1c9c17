"""The expression that answers are decoded by, held to the grammar of contracts/coordjson/ in both directions."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING

import pytest
import xgrammar
from hypothesis import assume, example, given
from hypothesis import strategies as st
from lark import Lark, UnexpectedInput

from coordexp.coordjson import FIELD_ORDERS, render_answer, render_expression, scan_answer
from coordexp.coords.types import CoordObject
from coordexp.spec import read_grammar
from tests.strategies import ANY_DESCS, boxes, coord_objects

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = [("bbox_2d",), ("bbox_2d", "poly")]
FORMS = st.tuples(st.sampled_from(FIELD_ORDERS), st.sampled_from(KINDS))
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff<]")


def is_plain(desc: str) -> bool:
    """What the expression's descs are, in other words than its own."""
    return bool(desc.strip()) and not CONTROL.search(desc) and not re.search(r"[^\S ]", desc)


PLAIN = ANY_DESCS.filter(is_plain)


@lru_cache(maxsize=1)
def grammar() -> Lark:
    return Lark(read_grammar("coordjson"), parser="lalr", lexer="contextual")


def is_accepted(text: str) -> bool:
    try:
        grammar().parse(text)
    except UnexpectedInput:
        return False
    return True


@pytest.fixture(scope="module")
def masked(cut_tokenizer) -> Callable[[str, str], bool]:
    """Whether xgrammar takes a text whole, and then nothing but the end of the turn."""
    info = xgrammar.TokenizerInfo.from_huggingface(cut_tokenizer)
    compiler = xgrammar.GrammarCompiler(info)

    def accepts(expression: str, text: str) -> bool:
        matcher = xgrammar.GrammarMatcher(compiler.compile_regex(expression))
        return (text == "" or matcher.accept_string(text)) and matcher.accept_token(cut_tokenizer.eos_token_id)

    return accepts


@pytest.mark.invariant("ROLL-050")
@given(FORMS.flatmap(lambda form: st.tuples(st.just(form), st.from_regex(render_expression(*form), fullmatch=True))))
def test_whatever_the_expression_generates_is_the_canonical_text_of_what_the_grammar_reads(masked, drawn) -> None:
    (order, kinds), text = drawn
    assert is_accepted(text)
    items = [found.item for found in scan_answer(text).objects]
    assert render_answer(items, order) == text
    assert {item.kind for item in items} <= set(kinds)
    assert all(is_plain(item.desc) for item in items)
    assert masked(render_expression(order, kinds), text)


@pytest.mark.invariant("ROLL-050")
@given(st.lists(coord_objects(PLAIN), max_size=4), FORMS)
@example([], ("desc_first", KINDS[0]))
@example([CoordObject('12" \\ruler, é 红色 😀', "bbox_2d", (0, 5, 10, 999))], ("geometry_first", KINDS[0]))
def test_every_canonical_rendering_of_plain_objects_matches(masked, objects, form) -> None:
    order, kinds = form
    text, expression = render_answer(objects, order), render_expression(order, kinds)
    wanted = all(item.kind in kinds for item in objects)
    assert (re.fullmatch(expression, text) is not None) == wanted
    assert masked(expression, text) == wanted
    (other,) = set(FIELD_ORDERS) - {order}
    assert (re.fullmatch(render_expression(other, kinds), text) is None) == (bool(objects) or not wanted)


PIECES = st.sampled_from(
    [
        *'{}[]",: \n\\0129é<',
        "\x00",
        "\x7f",
        "\x85",
        "\xa0",
        "\u2028",
        "\\n",
        '\\"',
        "\\\\",
        "\\u00e9",
        "<|coord_0|>",
        "<|coord_1000|>",
        "<|coord_05|>",
        "<|im_end|>",
        ", ",
        '"desc"',
        '"bbox_2d"',
        '"poly"',
        "]}",
        "{}",
    ]
)


@st.composite
def edited(draw: st.DrawFn, order: str) -> str:
    text = render_answer(draw(st.lists(boxes(ANY_DESCS), max_size=2)), order)
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 2)))
        text = text[:start] + draw(PIECES) + text[end:]
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


@pytest.mark.invariant("ROLL-050")
@given(st.sampled_from(FIELD_ORDERS).flatmap(lambda order: st.tuples(st.just(order), edited(order))))
def test_an_edited_answer_matches_exactly_when_it_is_canonical_and_plain(masked, drawn) -> None:
    order, text = drawn
    assume("\ud800" not in text)
    wanted = False
    if is_accepted(text):
        items = [found.item for found in scan_answer(text).objects]
        wanted = render_answer(items, order) == text and all(
            is_plain(item.desc) and item.kind == "bbox_2d" for item in items
        )
    expression = render_expression(order)
    assert (re.fullmatch(expression, text) is not None) == wanted
    assert masked(expression, text) == wanted


@pytest.mark.invariant("ROLL-050")
@pytest.mark.parametrize(
    ("character", "allowed"),
    [
        *((c, False) for c in "<\x00\t\n\r\x1f\x7f\x80\x85\x9f\xa0\u1680\u2003\u2028\u3000"),
        *((c, True) for c in "é红😀>|/'\u200b\xa1"),
    ],
)
def test_a_desc_holds_this_character_or_not(masked, character: str, allowed: bool) -> None:
    box = '"bbox_2d": [<|coord_1|>, <|coord_2|>, <|coord_3|>, <|coord_4|>]'
    text = f'{{"objects": [{{"desc": "a{character}b", {box}}}]}}'
    assert masked(render_expression("desc_first"), text) == allowed
    assert (re.fullmatch(render_expression("desc_first"), text) is not None) == allowed
    assert json.loads(f'"a{character}b"', strict=False)


@pytest.mark.invariant("ROLL-050")
def test_an_unknown_order_or_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="desc_first, geometry_first; got 'desc_last'"):
        render_expression("desc_last")  # type: ignore[arg-type]
    for kinds in ((), ("bbox_2d", "line")):
        with pytest.raises(ValueError, match="bbox_2d, poly; got"):
            render_expression("desc_first", kinds)  # type: ignore[arg-type]
