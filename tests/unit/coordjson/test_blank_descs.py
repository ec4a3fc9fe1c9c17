"""A desc is more than whitespace: in the grammar, in the scan, and in what a refusal says."""

from __future__ import annotations

import pytest
from lark import Lark, UnexpectedInput

from coordexp.coordjson import CoordJSONError, parse_answer
from coordexp.spec import read_grammar

BOX = '"bbox_2d": [<|coord_1|>, <|coord_2|>, <|coord_3|>, <|coord_4|>]'
BLANKS = [code for code in range(0x10000) if chr(code).isspace()]
NEIGHBOURS = sorted({code + step for code in BLANKS for step in (-1, 1)} - set(BLANKS) - {-1})


def answer(desc: str) -> str:
    return f'{{"objects": [{{"desc": "{desc}", {BOX}}}]}}'


def spellings(code: int) -> list[str]:
    """A character escaped in both cases, and as it is where it may stand so."""
    escaped = [f"\\u{code:04x}", f"\\u{code:04X}"]
    return escaped if code < 0x20 or chr(code) in '"\\' else [*escaped, chr(code)]


@pytest.fixture(scope="module")
def grammar() -> Lark:
    return Lark(read_grammar("coordjson"), parser="lalr", lexer="contextual")


@pytest.mark.invariant("TEXT-011")
@pytest.mark.parametrize("code", BLANKS, ids="U+{:04X}".format)
def test_whitespace_alone_is_no_desc(grammar: Lark, code: int) -> None:
    short = {0x09: ["\\t"], 0x0A: ["\\n"], 0x0C: ["\\f"], 0x0D: ["\\r"]}.get(code, [])
    for spelled in [*spellings(code), *short]:
        for desc in (spelled, f" {spelled}\\n"):
            with pytest.raises(CoordJSONError) as caught:
                parse_answer(answer(desc))
            assert caught.value.fault == "missing_desc"
            with pytest.raises(UnexpectedInput):
                grammar.parse(answer(desc))


@pytest.mark.invariant("TEXT-011")
@pytest.mark.parametrize("code", NEIGHBOURS, ids="U+{:04X}".format)
def test_the_characters_beside_whitespace_make_a_desc(grammar: Lark, code: int) -> None:
    for spelled in spellings(code):
        assert [item.desc for item in parse_answer(answer(f" {spelled}"))] == [f" {chr(code)}"]
        grammar.parse(answer(f" {spelled}"))
