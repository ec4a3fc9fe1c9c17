"""Cases of fixtures/coordjson/rollouts.json: what is found, what is dropped for which reason, and where the cut is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coordexp.coordjson import DROP_REASONS, CoordJSONError, ParsedObject, ParsedRollout, parse_answer, parse_rollout
from coordexp.spec import Case, load_cases
from tests.unit.coordjson.toy_rollouts import BINS, ToyTokens

CASES = load_cases(Path(__file__).parents[3] / "fixtures/coordjson/rollouts.json").cases
COORD = re.compile(r"<\|coord_\d+\|>")
FLAGS = ("invalid_rollout", "malformed_tail", "truncated")
EVERY = pytest.mark.parametrize("case", [pytest.param(case, id=case.description) for case in CASES])


def read(case: Case) -> tuple[ToyTokens, ParsedRollout]:
    toy = ToyTokens(case.input["tokens"])
    return toy, toy.parse(case.input["poly"])


def described(toy: ToyTokens, parsed: ParsedRollout) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for element in parsed.elements:
        if isinstance(element, ParsedObject):
            item = element.item
            found.append({"desc": item.desc, "kind": item.kind, "bins": list(item.bins)})
        else:
            found.append({"dropped": element.reason, "offending": element.excerpt})
    return found


@pytest.mark.invariant("PARSE-003")
@pytest.mark.invariant("PARSE-004")
@EVERY
def test_each_object_is_found_or_dropped_for_its_first_fault(case: Case) -> None:
    toy, parsed = read(case)
    assert described(toy, parsed) == case.expect["elements"]


@pytest.mark.invariant("PARSE-005")
@pytest.mark.invariant("PARSE-001")
@EVERY
def test_the_answer_is_called_what_it_is(case: Case) -> None:
    _, parsed = read(case)
    assert [flag for flag in FLAGS if getattr(parsed, flag)] == case.expect["flags"]
    assert (parsed.failure, parsed.strict) == (case.expect["failure"], case.expect["failure"] is None)


@pytest.mark.invariant("PARSE-006")
@EVERY
def test_the_prefix_ends_after_the_last_object_or_the_opening(case: Case) -> None:
    toy, parsed = read(case)
    assert toy.prefix(parsed).decode(errors="replace") == case.expect["kept"]
    assert bool(parsed.prefix.tokens) is not parsed.invalid_rollout


@pytest.mark.invariant("PARSE-002")
@EVERY
def test_spans_hold_the_object_and_coord_positions_its_bins(case: Case) -> None:
    toy, parsed = read(case)
    for element in parsed.elements:
        (first, beyond), end = element.span, element.end
        assert (0 <= first < beyond <= parsed.length) and end.tokens == beyond
        written = toy.text(first, beyond - 1) + end.kept
        assert written[element.offset :].startswith(b"{") and written.endswith(b"}")
        if isinstance(element, ParsedObject):
            assert tuple(toy.bin_at(at) for at in element.coord_positions) == element.item.bins
            inner = element.desc_span
        else:
            inner = element.offending
        assert first <= inner[0] < inner[1] <= beyond


@pytest.mark.invariant("PARSE-003")
def test_the_cases_hold_every_reason_valid_objects_and_both_outcomes() -> None:
    reasons = {element["dropped"] for case in CASES for element in case.expect["elements"] if "dropped" in element}
    assert reasons == set(DROP_REASONS)
    flags = {flag for case in CASES for flag in case.expect["flags"]}
    assert flags == set(FLAGS)
    assert {case.expect["failure"] is None for case in CASES} == {True, False}


@pytest.mark.invariant("PARSE-007")
@EVERY
def test_what_is_strict_is_what_the_strict_parse_accepts(case: Case) -> None:
    toy = ToyTokens(case.input["tokens"])
    parsed = toy.parse(allow_poly=True)
    assert parsed.strict == toy.parse().strict
    text = toy.text(0, parsed.length).decode(errors="replace")
    if len(COORD.findall(text)) > sum(token in BINS for token in toy.ids[: parsed.length]):
        assert not parsed.strict  # a spelled coord token: the text does not show it
    elif parsed.strict:
        assert parse_answer(text) == tuple(found.item for found in parsed.objects)
    else:
        with pytest.raises(CoordJSONError):
            parse_answer(text)


@pytest.mark.invariant("PARSE-004")
def test_polygons_are_dropped_unless_they_are_asked_for() -> None:
    six = ", ".join(["<|coord_1|>"] * 6)
    toy = ToyTokens([f'{{"objects": [{{"desc": "a", "poly": [{six}]}}]}}'])
    assert parse_rollout(toy.ids, toy.vocabulary).drop_counts["poly_unsupported"] == 1
    assert len(parse_rollout(toy.ids, toy.vocabulary, allow_poly=True).objects) == 1


@pytest.mark.invariant("PARSE-003")
def test_the_order_of_the_keys_is_told() -> None:
    desc, box = '"desc": "a"', '"bbox_2d": [<|coord_1|>, <|coord_2|>, <|coord_3|>, <|coord_4|>]'
    parsed = ToyTokens([f'{{"objects": [{{{desc}, {box}}}, {{{box}, {desc}}}]}}']).parse()
    assert [found.field_order for found in parsed.objects] == ["desc_first", "geometry_first"]
