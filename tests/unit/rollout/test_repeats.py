"""The state machine of repeat termination: where it triggers, what it costs, what an answer says of it afterwards."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.config.rollout_sections import RepeatTerminateConfig
from coordexp.encode.processor import load_processor
from coordexp.encode.vocabulary import build_real_tokenizer
from coordexp.rollout.server_plugin.guard import build_guard
from coordexp.rollout.server_plugin.repeats import RepeatDetector, RepeatGuard, RepeatGuardError, digest_limits
from tests.plugins.stage2 import EARLY

STOP = 0
PIECES = {1: b'{"', 2: b'"', 3: b'": [{"', 4: b"}, {", 5: b'\\"', 6: b"a", 7: b" ", 8: b"{{", 9: b'"}, {"', 10: b"\\"}
OFF = RepeatTerminateConfig(enabled=True, min_new_tokens=0)


def limits(**given: int) -> RepeatTerminateConfig:
    return dataclasses.replace(OFF, **given)


def guard(**given: int) -> RepeatGuard:
    return RepeatGuard(limits(**given), PIECES.__getitem__, STOP)


def first(watched: RepeatDetector, tokens: Sequence[int]) -> int | None:
    """How many tokens are read when it triggers."""
    return next((count for count, token in enumerate(tokens, 1) if watched.push(token)), None)


@pytest.mark.invariant("ROLL-040")
@pytest.mark.parametrize(
    ("given", "tokens", "count"),
    [
        ({"max_consecutive_token_repeats": 3}, [6, 7, 7, 6, 6, 6, 6], 6),
        ({"max_consecutive_token_repeats": 3}, [6, 6, 7, 6, 6, 7], None),
        ({"max_consecutive_token_repeats": 3, "min_new_tokens": 6}, [6, 6, 6, 6, 6, 6], 6),
        ({"max_consecutive_token_repeats": 3, "min_new_tokens": 6}, [6, 6, 6, 7, 7, 6, 7], None),
        ({"ngram_size": 2, "ngram_repeats": 3}, [7, 1, 2, 1, 2, 1, 2], 7),
        ({"ngram_size": 2, "ngram_repeats": 3}, [1, 2, 1, 2, 3, 1, 2, 1, 2, 1], None),
        ({"ngram_size": 1, "ngram_repeats": 4}, [6, 6, 6, 6], 4),
        ({"ngram_size": 3, "ngram_repeats": 2}, [1, 2, 3, 1, 2, 3], 6),
        ({"ngram_size": 3, "ngram_repeats": 2}, [1, 2, 3, 1, 2, 4, 1, 2, 3], None),
        # {"a": [{"a"}, {"a"}, {"…: the third object begins inside a token, with the end of the second.
        ({"max_object_keys": 2}, [1, 6, 3, 6, 9, 6, 9, 6], 7),
        ({"max_object_keys": 3}, [1, 6, 3, 6, 9, 6, 9, 6], None),
        # Braces in a string are text, an escaped quote ends none, over the border of two tokens too.
        ({"max_object_keys": 1}, [1, 8, 5, 8, 3, 6, 2, 2, 8, 2], None),
        ({"max_object_keys": 1}, [1, 10, 2, 8, 8, 2], None),
        ({"max_object_keys": 1}, [1, 10, 10, 2, 8], 5),
        ({}, [6] * 50, None),
    ],
)
def test_an_answer_is_ended_where_a_limit_is_reached(
    given: dict[str, int], tokens: list[int], count: int | None
) -> None:
    assert first(guard(**given).watch(), tokens) == count


def repeats_by_definition(given: RepeatTerminateConfig, tokens: Sequence[int]) -> bool:
    """What the limits say, with the whole answer at hand."""
    if len(tokens) < given.min_new_tokens:
        return False
    run, size, times, keys = (
        given.max_consecutive_token_repeats,
        given.ngram_size,
        given.ngram_repeats,
        given.max_object_keys,
    )
    last = list(tokens)
    if run is not None and len(last) >= run and len(set(last[-run:])) == 1:
        return True
    if size is not None and times is not None and len(last) >= size * times:
        parts = [tuple(last[len(last) - size * (i + 1) : len(last) - size * i]) for i in range(times)]
        if len(set(parts)) == 1:
            return True
    return keys is not None and objects(b"".join(PIECES[token] for token in tokens)) > keys


def objects(text: bytes) -> int:
    """Braces outside strings, the first one aside: strings are cut out, the simple way."""
    kept, inside, position = 0, False, 0
    while position < len(text):
        byte = text[position : position + 1]
        position += 2 if inside and byte == b"\\" else 1
        if byte == b'"':
            inside = not inside
        elif byte == b"{" and not inside:
            kept += 1
    return kept - 1


@pytest.mark.invariant("ROLL-040")
@given(
    st.builds(
        RepeatTerminateConfig,
        enabled=st.just(True),
        min_new_tokens=st.integers(0, 12),
        max_consecutive_token_repeats=st.none() | st.integers(2, 5),
        ngram_size=st.integers(1, 4),
        ngram_repeats=st.integers(2, 4),
        max_object_keys=st.none() | st.integers(1, 4),
    ),
    st.lists(st.sampled_from(sorted(PIECES)), max_size=40),
)
def test_one_token_at_a_time_is_the_definition(given: RepeatTerminateConfig, tokens: list[int]) -> None:
    watched = RepeatGuard(given, PIECES.__getitem__, STOP).watch()
    wanted = next((n for n in range(1, len(tokens) + 1) if repeats_by_definition(given, tokens[:n])), None)
    assert first(watched, tokens) == wanted
    assert watched.triggered == (wanted is not None), "once true, it stays"


@pytest.mark.invariant("ROLL-040")
def test_a_token_costs_the_same_at_the_end_of_a_long_answer() -> None:
    """Counted in calls and lines of the interpreter, which no other load on the machine changes."""
    watched = guard(max_consecutive_token_repeats=9, ngram_size=5, ngram_repeats=9, max_object_keys=10**6).watch()

    def steps(count: int) -> int:
        taken = 0

        def trace(*_: object) -> Callable[..., object]:
            nonlocal taken
            taken += 1
            return trace

        sys.settrace(trace)
        try:
            for place in range(count):
                watched.push((1, 6, 3, 6, 7, 9, 2)[place % 7])
        finally:
            sys.settrace(None)
        return taken

    steps(700)  # tokens are looked up once
    early = steps(700)
    for place in range(70_000):
        watched.push(6 + place % 2)
    steps(7)
    assert watched.length > 70_000 and steps(700) == early


@pytest.mark.invariant("ROLL-041")
@pytest.mark.parametrize(
    ("ids", "ended"),
    [
        ([6, 6, 6, STOP], True),
        ([7, 6, 6, 6, STOP], True),
        ([6, 6, STOP], False),
        ([6, 7, 6, 6], False),
        # The limit of tokens came first: the guard had no step left in which to end it.
        ([7, 6, 6, 6], False),
        ([STOP], False),
        ([], False),
    ],
)
def test_an_answers_ids_say_whether_the_guard_ended_it(ids: list[int], ended: bool) -> None:
    assert guard(max_consecutive_token_repeats=3).has_ended(ids) is ended


@pytest.mark.invariant("ROLL-041")
def test_an_answer_that_goes_on_past_the_guard_is_an_error() -> None:
    with pytest.raises(RepeatGuardError, match=r"token 3 of 5 is 7, and repeat_terminate ends this answer there"):
        guard(max_consecutive_token_repeats=3).has_ended([6, 6, 6, 7, STOP])


@pytest.mark.invariant("ROLL-041")
def test_equal_digests_are_equal_limits() -> None:
    one = limits(max_object_keys=3)
    changed = [
        dataclasses.replace(one, **{field.name: value})
        for field in dataclasses.fields(one)
        for value in ([False] if field.name == "enabled" else [17])
    ]
    digests = {digest_limits(each) for each in (one, *changed)}
    assert len(digests) == 1 + len(changed) and digest_limits(limits(max_object_keys=3)) == digest_limits(one)


@pytest.mark.invariant("ROLL-040")
@pytest.mark.parametrize("vocabulary", ["real", "fixture"])
def test_objects_are_counted_in_the_pieces_of_a_vocabulary(vocabulary: str) -> None:
    tokenizer = build_real_tokenizer() if vocabulary == "real" else load_processor(EARLY).tokenizer
    box = "[" + ", ".join(f"<|coord_{k}|>" for k in (1, 2, 30, 400)) + "]"
    text = '{"objects": [' + ", ".join(f'{{"desc": "red circle", "bbox_2d": {box}}}' for _ in range(5)) + "]}"
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert any("{" in piece and '"' in piece for piece in pieces), "tokens are fused"
    assert first(build_guard(limits(max_object_keys=5), tokenizer).watch(), ids) is None
    at = first(build_guard(limits(max_object_keys=3), tokenizer).watch(), ids)
    assert (
        at is not None
        and tokenizer.decode(ids[:at]).count('{"') == 5
        and tokenizer.decode(ids[: at - 1]).count('{"') == 4
    )
