"""What a refused answer is told: the place ( ⟦in these texts), what can stand there, the reason it counts under."""

from __future__ import annotations

import re

import pytest

from coordexp.coordjson import CoordJSONError, parse_answer, render_object, scan_answer
from coordexp.coordjson.faults import explain_container, explain_object, explain_tail
from coordexp.coords.types import CoordObject

BOX = '"bbox_2d": [<|coord_1|>, <|coord_2|>, <|coord_3|>, <|coord_4|>]'
SIX = ", ".join(f"<|coord_{k}|>" for k in range(6))
TOKEN = "a coord token <|coord_0|> .. <|coord_999|> without leading zeros"
FIELD = 'a key: "desc", "bbox_2d" or "poly"'
REST = "the rest of a JSON string and its closing quote"
EVEN = "an even number of coord tokens, at least 6, in poly"
CONTAINERS = [
    ("⟦", '{"objects": [', "container"),
    ("⟦[]", '{"objects": [', "container"),
    ('{⟦"items": []}', 'the key "objects"', "container"),
    ('{"objects" ⟦[]}', ":", "container"),
    ('{"objects": ⟦{}}', "[", "container"),
    ('{"objects": []⟦', "} to close the answer", "container"),
    ('{"objects": [] ⟦', "} to close the answer", "container"),
    ('{"objects": []⟦X}', "} to close the answer", "container"),
    ('{"objects": []} ⟦ok', "the end of the text after the answer's }", "container"),
]
OBJECTS = [
    ("⟦", "{ and an object", "syntax"),
    ("⟦7", "{ and an object", "syntax"),
    (f'{{"desc": "a", {BOX}}}⟦', ", and the next object, or ]", "syntax"),
    (f'{{"desc": "a", {BOX}}} ⟦{{', ", and the next object, or ]", "syntax"),
    (f'{{"desc": "a" ⟦{BOX}}}', ", or }", "syntax"),
    (f'{{"desc": "a", {BOX}⟦, }}', "} after desc and one geometry", "key_invalid"),
    (f'{{"desc": "a", "poly": [{SIX}]⟦, "score": 1}}', "} after desc and one geometry", "key_invalid"),
    (f'{{"desc": "a", "poly": [{SIX}, <|coord_7|>, <|coord_8|>]⟦, }}', "} after desc and one geometry", "key_invalid"),
    (f"{{{BOX}⟦}}", 'the key "desc"', "missing_desc"),
    ('{"desc": "a"⟦}', "a geometry, bbox_2d or poly", "missing_geom"),
]
FIELDS = [
    ("{⟦}", FIELD, "missing_desc"),
    ("{⟦desc: 1}", FIELD, "key_invalid"),
    ('{⟦"label": "a"}', FIELD, "key_invalid"),
    ('{"desc": "a", ⟦"desc": "b"}', "desc and one geometry, each once", "key_invalid"),
    ('{"desc": "a", ⟦"bbox": []}', "bbox_2d or poly as the geometry's key", "unknown_geom"),
    ('{"desc" ⟦"a"}', ":", "syntax"),
    ('{"desc": ⟦1}', "a string as the desc", "missing_desc"),
    ('{"desc": "⟦"}', "a desc of more than whitespace", "missing_desc"),
    ('{"desc": " \\n⟦"}', "a desc of more than whitespace", "missing_desc"),
    ('{"desc": "a⟦\n"}', REST, "missing_desc"),
    ('{"de⟦\n"}', REST, "key_invalid"),
]
COORDS = [
    ('{"bbox_2d": ⟦5', "[ and coord tokens", "non_coord_token"),
    ('{"bbox_2d": [⟦5', TOKEN, "non_coord_token"),
    ('{"bbox_2d": [⟦]', TOKEN, "wrong_arity"),
    ('{"bbox_2d": [<|coord_1|> ⟦<|coord_2|>', ", or ]", "syntax"),
    ('{"bbox_2d": [<|coord_1|>⟦]', "4 coord tokens in bbox_2d, not 1", "wrong_arity"),
    (f"{{{BOX[:-1]}⟦, <|coord_5|>", "] after the 4 coord tokens of bbox_2d", "wrong_arity"),
    ('{"poly": [<|coord_1|>, <|coord_2|>⟦]', f"{EVEN}, not 2", "wrong_arity"),
    (f'{{"poly": [{SIX}, <|coord_6|>⟦]', f"{EVEN}, not 7", "wrong_arity"),
]
PLACES = CONTAINERS + [(f'{{"objects": [{text}', *rest) for text, *rest in OBJECTS + FIELDS + COORDS]


def refusal(text: str) -> CoordJSONError:
    with pytest.raises(CoordJSONError) as caught:
        scan_answer(text)
    return caught.value


@pytest.mark.invariant("TEXT-005")
@pytest.mark.parametrize(
    ("marked", "expected", "fault"), PLACES, ids=[f"{fault}-{number}" for number, (_, _, fault) in enumerate(PLACES)]
)
def test_a_refused_answer_is_told_where_what_and_why(marked: str, expected: str, fault: str) -> None:
    before, after = marked.split("⟦")
    error = refusal(before + after)
    assert (error.position, error.expected, error.fault) == (len(before), expected, fault)
    assert f": expected {expected}, found " in str(error)


@pytest.mark.invariant("TEXT-005")
def test_the_excerpt_shows_thirty_characters_around_the_place() -> None:
    rest = "17, <|coord_3|>, <|coord_4|>]}]}"
    answer = f'{{"objects": [{{"desc": "a long description of a cat", "bbox_2d": [<|coord_1|>, {rest}'
    excerpt = 'at", "bbox_2d": [<|coord_1|>, ⟦17, <|coord_3|>, <|coord_4|>]}'
    error = refusal(answer)
    assert error.excerpt == excerpt
    assert str(error) == f"CoordJSON, character 78: expected {TOKEN}, found '1' (non_coord_token) in {excerpt!r}"
    assert refusal("[]").excerpt == "⟦[]"
    assert refusal(" []").excerpt == " ⟦[]"


@pytest.mark.invariant("TEXT-007")
def test_swapped_corners_are_told_the_order() -> None:
    with pytest.raises(CoordJSONError) as caught:
        parse_answer('{"objects": [{"desc": "a", "bbox_2d": [<|coord_9|>, <|coord_2|>, <|coord_3|>, <|coord_4|>]}]}')
    assert (caught.value.expected, caught.value.fault) == ("a box with x1 <= x2, y1 <= y2", "bbox_invalid")


@pytest.mark.invariant("TEXT-002")
def test_an_object_is_written_desc_first_unless_told_otherwise() -> None:
    item = CoordObject("cat", "bbox_2d", (1, 2, 3, 4))
    assert render_object(item) == f'{{"desc": "cat", {BOX}}}'


@pytest.mark.invariant("TEXT-005")
@pytest.mark.parametrize("after", [", ", "]"], ids=["another object", "the end"])
def test_where_nothing_is_wrong_no_fault_is_made_up(after):
    item = f'{{"desc": "a", {BOX}}}{after}'
    for explain, text in (
        (lambda: explain_container('{"objects": ['), '{"objects": ['),
        (lambda: explain_object(item, 0), item),
        (lambda: explain_tail("] } ", 2), "] } "),
    ):
        with pytest.raises(
            AssertionError, match="the patterns refuse what the descent accepts: " + re.escape(repr(text))
        ):
            explain()
