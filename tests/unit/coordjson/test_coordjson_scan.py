"""Where the scan finds the parts of an answer, and how its time grows."""

from __future__ import annotations

import time

import pytest

from coordexp.coordjson import CoordJSONError, parse_answer, render_answer, scan_answer
from coordexp.coords.types import CoordObject

TEXT = (
    '{"objects": [{"desc": "a]}, {", "bbox_2d": [<|coord_1|>, <|coord_20|>, <|coord_300|>, <|coord_400|>]}, '
    '{"poly": [<|coord_9|>, <|coord_8|>, <|coord_7|>, <|coord_6|>, <|coord_5|>, <|coord_4|>], '
    '"desc": "é\\"<|coord_3|>"}]}'
)


def cut(span: tuple[int, int]) -> str:
    return TEXT[span[0] : span[1]]


@pytest.mark.invariant("TEXT-004")
def test_container_spans_cover_opening_separators_and_closure() -> None:
    scan = scan_answer(TEXT)
    assert cut(scan.opening) == '{"objects": ['
    assert [cut(span) for span in scan.separators] == [", "]
    assert cut(scan.closure) == "]}"
    assert scan.closure[1] == len(TEXT)


@pytest.mark.invariant("TEXT-004")
def test_object_spans_cover_desc_value_and_coord_tokens() -> None:
    first, second = scan_answer(TEXT).objects
    assert cut(first.span).startswith('{"desc"')
    assert cut(first.span).endswith("_400|>]}")
    assert (cut(first.desc_span), cut(second.desc_span)) == ("a]}, {", 'é\\"<|coord_3|>')
    assert [cut(span) for span in first.coord_spans] == [f"<|coord_{k}|>" for k in (1, 20, 300, 400)]
    assert [cut(span) for span in second.coord_spans] == [f"<|coord_{k}|>" for k in (9, 8, 7, 6, 5, 4)]
    assert (first.kind, second.kind, second.bins) == ("bbox_2d", "poly", (9, 8, 7, 6, 5, 4))


@pytest.mark.invariant("TEXT-004")
def test_empty_answer_with_whitespace_has_container_spans_alone() -> None:
    scan = scan_answer(' {"objects": [ ] } ')
    assert (scan.opening, scan.objects, scan.separators, scan.closure) == ((1, 14), (), (), (15, 18))


def seconds(text: str, valid: bool = True) -> float:
    """CPU seconds of one parse, the best of five; other processes do not count."""
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        if valid:
            parse_answer(text)
        else:
            with pytest.raises(CoordJSONError):
                parse_answer(text)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.invariant("TEXT-009")
def test_time_grows_in_proportion_to_the_number_of_objects() -> None:
    few, many = ([CoordObject("black cat", "bbox_2d", (1, 2, 3, 4))] * count for count in (100, 3200))
    assert seconds(render_answer(many)) < 32 * 8 * seconds(render_answer(few))


@pytest.mark.invariant("TEXT-009")
@pytest.mark.parametrize(
    "unit",
    [" ", "a", "\\\\", '"', '{"desc": "', "<|coord_1|>, ", '{"desc": "a", "poly": ['],
    ids=["spaces", "letters", "escapes", "quotes", "descs", "coords", "polys"],
)
@pytest.mark.parametrize("stem", ['{"objects": [', '{"objects": [{"desc": "', '{"objects": [{"desc": "a", "poly": ['])
def test_hostile_text_takes_linear_time(stem: str, unit: str) -> None:
    short, long = (stem + unit * count for count in (500, 16_000))
    assert seconds(long, valid=False) < max(32 * 8 * seconds(short, valid=False), 0.25)
