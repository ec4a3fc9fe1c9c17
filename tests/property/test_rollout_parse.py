"""The parse of a rollout against a slow one, the grammar and the strict parse, on real tokens and any ids."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.lark import from_lark
from lark import Lark
from transformers import Qwen2TokenizerFast

from coordexp.coordjson import (
    CLOSURE,
    DROP_REASONS,
    CoordJSONError,
    ParsedObject,
    ParsedRollout,
    own_prefix,
    parse_answer,
    render_answer,
)
from coordexp.coords.types import CoordObject
from coordexp.coords.vocab import build_coord_vocab
from coordexp.encode.pieces import PieceTable
from coordexp.encode.rollout_parse import RolloutParser
from coordexp.encode.vocabulary import CONTROL_TOKENS
from coordexp.spec import read_grammar
from tests.rollout_faults import MUTATORS, UNKNOWN_ID, broken, encode, much_broken
from tests.strategies import BINS, FIELD_ORDERS
from tests.unit.coordjson.rollout_reference import read_reference

RANDOM_SEQUENCES = {"thorough": 100_000}.get(os.environ.get("COORDEXP_HYPOTHESIS", "ci"), 5_000)
GRAMMAR = from_lark(Lark(read_grammar("coordjson"), parser="lalr", lexer="contextual"))
COORD = re.compile(r"<\|coord_(?:0|[1-9][0-9]{0,2})\|>")
ROWS = 152_704


@dataclass(frozen=True)
class Kit:
    """The real tokenizer, both parsers of its rollouts, and what the slow parse is told instead."""

    tokenizer: Qwen2TokenizerFast
    pieces: PieceTable
    parsers: dict[bool, RolloutParser]
    bins: dict[int, int]
    control: list[int]

    def slow(self, ids: Sequence[int], poly: bool):
        return read_reference(ids, self.pieces.any_piece, self.bins, self.control, poly)

    def spelled(self, ids: Sequence[int]) -> bytes:
        return b"".join(map(self.pieces.any_piece, ids))


@pytest.fixture(scope="module")
def kit(real_tokenizer: Qwen2TokenizerFast) -> Kit:
    coords = build_coord_vocab(real_tokenizer)
    return Kit(
        real_tokenizer,
        PieceTable(real_tokenizer),
        {poly: RolloutParser(real_tokenizer, coords, allow_poly=poly) for poly in (False, True)},
        {token: value for value, token in enumerate(coords.ids)},
        list(real_tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS))),
    )


def elements_of(parsed: ParsedRollout) -> list[tuple]:
    found: list[tuple] = []
    for element in parsed.elements:
        where = (element.span, element.offset)
        if isinstance(element, ParsedObject):
            item = element.item
            inside = (element.field_order, element.desc_span, element.coord_positions)
            found.append(("valid", item.desc, item.kind, item.bins, *inside, *where))
        else:
            found.append(("dropped", element.reason, *where))
    return found


def check_against_the_slow_parse(kit: Kit, ids: Sequence[int]) -> None:
    for poly, parser in kit.parsers.items():
        parsed, slow = parser.parse(ids), kit.slow(ids, poly)
        assert elements_of(parsed) == slow.elements
        assert parsed.length == slow.length
        flags = (parsed.invalid_rollout, parsed.truncated, parsed.malformed_tail, parsed.strict)
        assert flags == (slow.invalid, slow.truncated, slow.malformed, slow.strict)
        assert (parsed.prefix.tokens, parsed.prefix.offset, parsed.prefix.kept) == slow.kept
        assert [(token.first, token.last) for token in own_prefix(parsed)] == slow.owners


@pytest.mark.invariant("PARSE-010")
@given(GRAMMAR)
def test_what_the_grammar_generates_is_parsed_like_the_slow_parse_does(kit: Kit, text: str) -> None:
    check_against_the_slow_parse(kit, encode(kit.tokenizer, text))


@pytest.mark.invariant("PARSE-010")
@pytest.mark.parametrize("name", sorted(MUTATORS))
@given(data=st.data())
def test_an_answer_broken_in_one_way_is_parsed_like_the_slow_parse_does(
    kit: Kit, name: str, data: st.DataObject
) -> None:
    check_against_the_slow_parse(kit, encode(kit.tokenizer, data.draw(broken(name))))


@pytest.mark.invariant("PARSE-010")
@given(much_broken() | much_broken(GRAMMAR))
def test_an_answer_broken_in_several_ways_is_parsed_like_the_slow_parse_does(kit: Kit, text: str) -> None:
    check_against_the_slow_parse(kit, encode(kit.tokenizer, text))


@pytest.mark.invariant("PARSE-007")
@given(much_broken() | GRAMMAR)
def test_an_answer_is_strict_exactly_when_the_strict_parse_takes_its_text(kit: Kit, text: str) -> None:
    ids = encode(kit.tokenizer, text)
    parsed = kit.parsers[True].parse(ids)
    kept = ids[: parsed.length]
    written = kit.spelled(kept).decode(errors="replace")
    assert parsed.strict == kit.parsers[False].parse(ids).strict
    if len(COORD.findall(written)) > sum(token in kit.bins for token in kept):
        return  # the text does not show that a coord token is spelled; test_rollout_cases says what becomes of it
    if parsed.strict:
        assert parse_answer(written) == tuple(found.item for found in parsed.objects)
    else:
        with pytest.raises(CoordJSONError):
            parse_answer(written)


@pytest.mark.invariant("PARSE-006")
@given(much_broken())
def test_a_prefix_that_is_closed_holds_the_same_objects(kit: Kit, text: str) -> None:
    """Whatever followed is gone, and what was there is as it was: the tokens before the last, and their parse."""
    ids = encode(kit.tokenizer, text)
    parsed = kit.parsers[True].parse(ids)
    cut = parsed.prefix
    if parsed.invalid_rollout:
        assert (cut.tokens, cut.offset, cut.kept) == (0, 0, b"")
        return
    assert kit.spelled(ids[cut.tokens - 1 : cut.tokens])[: cut.offset] == cut.kept
    assert cut.kept.endswith(b"}" if parsed.elements else b"[")
    seam = encode(kit.tokenizer, cut.kept.decode() + CLOSURE)
    again = kit.parsers[True].parse([*ids[: cut.tokens - 1], *seam])
    held = [element[:-2] for element in elements_of(again)]
    assert held == [element[:-2] for element in elements_of(parsed)]
    assert not (again.truncated or again.malformed_tail)


ITEMS = [
    CoordObject("black cat", "bbox_2d", (110, 310, 410, 705)),
    CoordObject('a "quoted" {brace}]}', "bbox_2d", (1, 2, 3, 4)),
    CoordObject("红色 café 😀", "poly", (1, 2, 3, 4, 5, 6)),
    CoordObject("two\nlines", "bbox_2d", (0, 0, 999, 999)),
]


@pytest.mark.invariant("PARSE-010")
@pytest.mark.parametrize("order", ["desc_first", "geometry_first"])
def test_an_answer_cut_after_any_token_is_parsed_like_the_slow_parse_does(kit: Kit, order: str) -> None:
    ids = encode(kit.tokenizer, render_answer(ITEMS, order))
    for length in range(len(ids) + 1):
        check_against_the_slow_parse(kit, ids[:length])


@pytest.mark.invariant("PARSE-005")
@pytest.mark.parametrize("order", ["desc_first", "geometry_first"])
def test_an_answer_cut_after_any_token_keeps_the_objects_before_the_cut(kit: Kit, order: str) -> None:
    ids = encode(kit.tokenizer, render_answer(ITEMS, order))
    whole = kit.parsers[True].parse(ids)
    assert [found.item for found in whole.objects] == ITEMS
    for length in range(len(ids)):
        parsed = kit.parsers[True].parse(ids[:length])
        done = tuple(found for found in whole.elements if found.span[1] <= length)
        opened = length >= whole.opening.tokens
        assert parsed.elements == done and parsed.truncated and parsed.invalid_rollout is not opened
        if opened:
            assert parsed.prefix == (done[-1].end if done else whole.opening)


@pytest.mark.invariant("PARSE-002")
@given(st.lists(st.tuples(BINS, BINS, BINS, BINS), max_size=4), FIELD_ORDERS)
def test_coord_positions_are_the_coord_tokens_in_the_order_written(
    kit: Kit, boxes: list[tuple[int, int, int, int]], order: str
) -> None:
    sound = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    ids = encode(kit.tokenizer, render_answer([CoordObject("cat", "bbox_2d", box) for box in sound], order))
    parsed = kit.parsers[False].parse(ids)
    positions = [at for found in parsed.objects for at in found.coord_positions]
    assert positions == [at for at, token in enumerate(ids) if token in kit.bins]
    assert [found.item.bins for found in parsed.objects] == sound
    assert all(found.field_order == order for found in parsed.objects)


def drawn_ids(draw: random.Random, kit: Kit, answers: list[list[int]]) -> list[int]:
    """An answer with some tokens taken out, doubled or replaced by any row of the head, or such rows alone."""
    usual = [token for answer in answers for token in answer]
    ids = draw.choice([*answers, draw.choices(range(ROWS), k=20)])[:]
    for _ in range(draw.randrange(6)):
        at = draw.randrange(len(ids) + 1)
        control = [*kit.control, UNKNOWN_ID]
        new = draw.choices([draw.randrange(ROWS), draw.choice(usual), draw.choice(control)], weights=[5, 20, 1])
        ids[at : at + draw.randrange(3)] = new[: draw.randrange(2)]
    return ids


@pytest.mark.invariant("PARSE-001")
def test_ids_of_any_kind_raise_nothing_and_are_parsed_like_the_slow_parse_does(kit: Kit) -> None:
    draw, seen = random.Random(0), set()
    answers = [encode(kit.tokenizer, render_answer(ITEMS, order)) for order in ("desc_first", "geometry_first")]
    for number in range(RANDOM_SEQUENCES):
        ids = drawn_ids(draw, kit, answers)
        parsed = kit.parsers[number % 2 == 0].parse(ids)
        seen |= {parsed.failure, *(drop.reason for drop in parsed.dropped)}
        if number % 10 == 0:
            check_against_the_slow_parse(kit, ids)
    assert set(DROP_REASONS) | {"invalid_rollout", "malformed_tail", "truncated", None} <= seen
