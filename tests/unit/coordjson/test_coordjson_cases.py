"""Cases of fixtures/coordjson/, both outcomes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordexp.coordjson import CoordJSONError, parse_answer, render_answer, scan_answer, transpile
from coordexp.coords.types import CoordObject
from coordexp.spec import Case, load_cases

FIXTURES = Path(__file__).parents[3] / "fixtures" / "coordjson"


def cases_of(topic: str, outcome: str | None = None) -> list[object]:
    cases = load_cases(FIXTURES / f"{topic}.json").cases
    chosen = [case for case in cases if outcome is None or outcome in case.expect]
    return [pytest.param(case, id=case.description) for case in chosen]


def objects_of(rows: list[dict[str, object]]) -> tuple[CoordObject, ...]:
    return tuple(CoordObject(row["desc"], row["kind"], tuple(row["bins"])) for row in rows)


@pytest.mark.invariant("TEXT-006")
@pytest.mark.parametrize("case", cases_of("answers", "objects"))
def test_answer_holds_its_objects(case: Case) -> None:
    assert parse_answer(case.input) == objects_of(case.expect["objects"])
    assert tuple(found.item for found in scan_answer(case.input).objects) == objects_of(case.expect["objects"])


@pytest.mark.invariant("TEXT-003")
@pytest.mark.parametrize("case", cases_of("answers", "fault"))
def test_text_outside_the_language_is_refused(case: Case) -> None:
    for reader in (scan_answer, parse_answer, transpile):
        with pytest.raises(CoordJSONError):
            reader(case.input)


@pytest.mark.invariant("TEXT-005")
@pytest.mark.parametrize("case", cases_of("answers", "fault"))
def test_refusal_says_where_and_why(case: Case) -> None:
    with pytest.raises(CoordJSONError) as caught:
        parse_answer(case.input)
    assert (caught.value.fault, caught.value.position) == (case.expect["fault"], case.expect["position"])


@pytest.mark.invariant("TEXT-005")
def test_refusal_shows_the_place_and_what_was_expected() -> None:
    text = '{"objects": [{"desc": "cat", "bbox_2d": [<|coord_1|>, 17, <|coord_3|>, <|coord_4|>]}]}'
    with pytest.raises(CoordJSONError) as caught:
        parse_answer(text)
    assert caught.value.position == text.index("17")
    assert caught.value.excerpt.split("⟦")[1].startswith("17, <|coord_3|>")
    message = str(caught.value)
    assert f"character {text.index('17')}: expected a coord token <|coord_0|> .. <|coord_999|>" in message
    assert "found '1' (non_coord_token)" in message


@pytest.mark.invariant("TEXT-005")
def test_refusal_at_the_end_says_so() -> None:
    with pytest.raises(CoordJSONError, match="found the end of the text"):
        parse_answer('{"objects": [')


@pytest.mark.invariant("TEXT-007")
@pytest.mark.parametrize("case", cases_of("box_order", "fault"))
def test_box_with_swapped_corners_is_refused(case: Case) -> None:
    scan_answer(case.input)
    with pytest.raises(CoordJSONError, match="x1 <= x2, y1 <= y2") as caught:
        parse_answer(case.input)
    assert (caught.value.fault, caught.value.position) == (case.expect["fault"], case.expect["position"])


@pytest.mark.invariant("TEXT-007")
@pytest.mark.parametrize("case", cases_of("box_order", "objects"))
def test_geometry_in_order_is_kept_as_written(case: Case) -> None:
    assert parse_answer(case.input) == objects_of(case.expect["objects"])


@pytest.mark.invariant("TEXT-001")
@pytest.mark.parametrize("case", cases_of("rendering"))
def test_desc_first_text_is_canonical(case: Case) -> None:
    assert render_answer(objects_of(case.input)) == case.expect["desc_first"]


@pytest.mark.invariant("TEXT-002")
@pytest.mark.parametrize("case", cases_of("rendering"))
@pytest.mark.parametrize("order", ["desc_first", "geometry_first"])
def test_keys_follow_the_field_order(case: Case, order: str) -> None:
    assert render_answer(objects_of(case.input), order) == case.expect[order]


@pytest.mark.invariant("TEXT-002")
def test_unknown_field_order_is_refused() -> None:
    with pytest.raises(ValueError, match="desc_first, geometry_first; got 'box_first'"):
        render_answer([CoordObject("a", "bbox_2d", (1, 2, 3, 4))], "box_first")


@pytest.mark.invariant("TEXT-001")
@pytest.mark.parametrize("bins", [(1, 2, 3, 1000), (-1, 2, 3, 4), (1, 2.5, 3, 4)])
def test_number_that_is_no_bin_is_not_rendered(bins: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="bin"):
        render_answer([CoordObject("a", "bbox_2d", bins)])


@pytest.mark.invariant("TEXT-008")
@pytest.mark.parametrize("case", cases_of("answers", "objects"))
def test_transpiled_answer_is_strict_json_with_integers(case: Case) -> None:
    read = json.loads(transpile(case.input))
    expected = [{"desc": row["desc"], row["kind"]: row["bins"]} for row in case.expect["objects"]]
    assert read == {"objects": expected}


@pytest.mark.invariant("TEXT-008")
def test_transpiling_changes_coord_tokens_alone() -> None:
    text = ' {"objects":[{"desc" : "<|coord_7|>",\t"bbox_2d": [<|coord_1|>,<|coord_2|>, <|coord_3|> ,<|coord_4|>]}]}\n'
    assert transpile(text) == ' {"objects":[{"desc" : "<|coord_7|>",\t"bbox_2d": [1,2, 3 ,4]}]}\n'
