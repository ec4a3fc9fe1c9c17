"""How the time of a rollout's parse grows: with many objects, and with text made to be slow or deep."""

from __future__ import annotations

import time

import pytest

from coordexp.coordjson import ParsedRollout
from tests.unit.coordjson.toy_rollouts import ToyTokens

BOX = '"bbox_2d": [<|coord_1|>, <|coord_2|>, <|coord_3|>, <|coord_4|>]'
CAT = f'{{"desc": "cat", {BOX}}}'
OPEN = '{"objects": ['


def seconds(toy: ToyTokens) -> tuple[float, ParsedRollout]:
    """CPU seconds of one parse, the best of five; other processes do not count."""
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        parsed = toy.parse()
        best = min(best, time.process_time() - start)
    return best, parsed


@pytest.mark.invariant("PARSE-011")
def test_time_grows_in_proportion_to_the_number_of_objects() -> None:
    (few, _), (many, parsed) = (seconds(ToyTokens([OPEN, *[CAT, ", "] * count])) for count in (100, 6400))
    assert len(parsed.objects) == 6400
    assert many < 64 * 4 * few


STEMS = {
    "the array": OPEN,
    "an object": OPEN + "{",
    "a desc": OPEN + '{"desc": "',
    "a list": OPEN + '{"desc": "a", "poly": [',
    "nothing": "",
    "the end": OPEN + CAT + "]",
}
UNITS = {
    "spaces": " ",
    "letters": "a",
    "escapes": "\\\\",
    "quotes": '"',
    "braces": "{",
    "pairs of braces": "{}, ",
    "brackets": "[",
    "strings": '"a", ',
    "keys": '{"a": ',
    "objects without brace": '{"desc": "a", ',
    "coords": "<|coord_1|>, ",
    "dropped objects": '{"desc": "a"}, ',
    "descs": '{"desc": "',
}


@pytest.mark.invariant("PARSE-011")
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("stem", STEMS)
def test_hostile_text_takes_linear_time(stem: str, unit: str) -> None:
    (short, _), (long, _) = (seconds(ToyTokens([STEMS[stem], *[UNITS[unit]] * count])) for count in (500, 16_000))
    assert long < max(32 * 8 * short, 0.25)


@pytest.mark.invariant("PARSE-011")
@pytest.mark.parametrize("levels", [1_500, 100_000])
@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('{"a": ', "}", "missing_desc"),
        ("{", "}", "missing_desc"),
        ('{"a": [', "]}", "missing_desc"),
        ("[", "]", "missing_desc"),
        ('""', "", "missing_desc"),
        ('"a"', "", "key_invalid"),
    ],
)
def test_levels_and_quotes_without_number_raise_nothing(before: str, after: str, reason: str, levels: int) -> None:
    inside = [*[before] * levels, *[after] * levels]
    deep = ToyTokens([OPEN + '{"desc": ', *inside, f", {BOX}}}, {CAT}]}}"]).parse()
    assert [drop.reason for drop in deep.dropped] == [reason]
    assert [found.item.desc for found in deep.objects] == ["cat"]
    assert ToyTokens([OPEN + '{"desc": ', *inside]).parse().truncated
    assert ToyTokens(inside).parse().invalid_rollout
