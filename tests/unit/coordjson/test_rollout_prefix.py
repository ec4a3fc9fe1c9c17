"""Whose bytes each kept token holds, shorter prefixes, and what is counted of many answers."""

from __future__ import annotations

import pytest

from coordexp.coordjson import (
    DROP_REASONS,
    OPENING_OWNER,
    PrefixToken,
    describe_failure,
    keep_elements,
    own_prefix,
    tally_rollouts,
)
from tests.unit.coordjson.toy_rollouts import ToyTokens

BOX = '"bbox_2d": [<|coord_1|>, <|coord_2|>, <|coord_3|>, <|coord_4|>]'
CAT, DOG, BAD = (f'{{"desc": "{name}", {BOX}}}' for name in ("cat", "dog", ""))


def owners(tokens: list[object]) -> list[tuple[bytes, int, int]]:
    toy = ToyTokens(tokens)
    held = own_prefix(toy.parse())
    return [(toy.text(at, at + 1), token.first, token.last) for at, token in enumerate(held)]


@pytest.mark.invariant("PARSE-008")
def test_separator_and_whitespace_belong_to_the_object_before_and_the_rest_to_the_opening() -> None:
    found = owners([" ", '{"objects": [', "\n", "{}", " ", ",", "\n", "{}", " "])
    opened = [(part, OPENING_OWNER, OPENING_OWNER) for part in (b" ", b'{"objects": [', b"\n")]
    assert found == [*opened, (b"{}", 0, 0), (b" ", 0, 0), (b",", 0, 0), (b"\n", 0, 0), (b"{}", 1, 1)]


@pytest.mark.invariant("PARSE-008")
@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([' {"objects": [{', "}"], [(OPENING_OWNER, 0), (0, 0)]),
        (['{"objects": [', "{},{}"], [(OPENING_OWNER, OPENING_OWNER), (0, 1)]),
        (['{"objects": [{},{},{}, {', "}"], [(OPENING_OWNER, 3), (3, 3)]),
        (['{"objects": [{', "},{", "}, {", "}]}"], [(OPENING_OWNER, 0), (0, 1), (1, 2), (2, 2)]),
        (['{"objects": [{', "} , ", " {", "} , "], [(OPENING_OWNER, 0), (0, 0), (0, 1), (1, 1)]),
        (['{"objects": [', "{} ", '{"desc'], [(OPENING_OWNER, OPENING_OWNER), (0, 0)]),
        (['{"objects": [  ', "{"], [(OPENING_OWNER, OPENING_OWNER)]),
        (["no container"], []),
    ],
)
def test_a_fused_token_names_the_owners_of_its_two_ends(tokens: list[object], expected: list[tuple[int, int]]) -> None:
    assert [(first, last) for _, first, last in owners(tokens)] == expected


@pytest.mark.invariant("PARSE-008")
def test_desc_tokens_and_slots_are_those_of_valid_objects_alone() -> None:
    tokens = ['{"objects": [{"desc": "', "a <|coord_9|>", " b", '", ' + BOX, f"}}, {BAD}]}}"]
    toy = ToyTokens(tokens)
    held = own_prefix(toy.parse())
    written = [toy.text(at, at + 1) for at in range(len(held))]
    named = [text for text, token in zip(written, held, strict=True) if token.desc == 0]
    assert named == [b"a ", b"<|coord_9|>", b" b"]
    slots = {token.slot: text for text, token in zip(written, held, strict=True) if token.slot is not None}
    assert slots == {(0, number): f"<|coord_{number + 1}|>".encode() for number in range(4)}
    assert {token.desc for token in held} == {None, 0}


@pytest.mark.invariant("PARSE-008")
def test_a_token_that_holds_any_byte_of_a_desc_is_of_the_desc() -> None:
    toy = ToyTokens(['{"objects": [', '{"desc": "c', "a", 't", ' + BOX, "}]}"])
    parsed = toy.parse()
    assert parsed.objects[0].desc_span == (1, 4)
    assert [token.desc for token in own_prefix(parsed)] == [None, 0, 0, 0, *[None] * 9]


@pytest.mark.invariant("PARSE-006")
def test_a_shorter_prefix_ends_after_the_element_that_is_kept_last() -> None:
    toy = ToyTokens(['{"objects": [', f"{CAT}, {BAD}, {DOG}]}}"])
    parsed = toy.parse()
    for count, kept in enumerate(['{"objects": [', f'{{"objects": [{CAT}', f'{{"objects": [{CAT}, {BAD}']):
        shorter = keep_elements(parsed, count)
        assert toy.prefix(shorter) == kept.encode()
        assert len(own_prefix(shorter)) == shorter.prefix.tokens
        assert shorter.elements == parsed.elements[:count]
    assert keep_elements(parsed, 3) == parsed
    for count in (-1, 4):
        with pytest.raises(ValueError, match=f"in 0..3, the number of elements; got {count}"):
            keep_elements(parsed, count)


@pytest.mark.invariant("PARSE-008")
def test_the_opening_alone_and_nothing_at_all_have_their_prefix() -> None:
    assert own_prefix(ToyTokens(['{"objects":', " [", '{"de']).parse()) == (PrefixToken(-1, -1), PrefixToken(-1, -1))
    assert own_prefix(ToyTokens([]).parse()) == ()


@pytest.mark.invariant("PARSE-009")
def test_what_is_sought_is_found_or_dropped_and_every_reason_is_counted() -> None:
    answers = [
        f'{{"objects": [{CAT}, {BAD}, {DOG}]}}',
        f'{{"objects": [{BAD}, {{"desc": "a", "bbox_2d": [17]}}, {CAT}, 5]}}',
        f'{{"objects": [{CAT}, {{"de',
        "prose",
        f'{{"objects": [{CAT}]}}',
    ]
    tally = tally_rollouts([ToyTokens([text]).parse() for text in answers])
    assert (tally.answers, tally.strict, tally.invalid_rollouts) == (5, 1, 1)
    assert (tally.truncated, tally.malformed_tails) == (2, 1)
    assert (tally.sought, tally.found) == (8, 5)
    assert dict(tally.dropped) == dict.fromkeys(DROP_REASONS, 0) | {"missing_desc": 2, "non_coord_token": 1}
    assert tally.sought == tally.found + sum(tally.dropped.values())
    assert tally.failures == {"invalid_rollout": 1, "missing_desc": 2, "truncated": 1}
    assert tally.examples == {"missing_desc": ('""', '""'), "non_coord_token": ("17",)}


@pytest.mark.invariant("PARSE-009")
def test_at_most_three_examples_are_kept_and_each_is_short() -> None:
    words = [f"w{number}" for number in range(5)]
    objects = ", ".join(f'{{"desc": "a", "bbox_2d": [{word}]}}' for word in words)
    long = f'{{"desc": "a", "{"k" * 500}": 1}}'
    parsed = ToyTokens([f'{{"objects": [{objects}, {long}]}}']).parse()
    tally = tally_rollouts([parsed])
    assert tally.examples["non_coord_token"] == ("w0", "w1", "w2")
    assert tally.examples["key_invalid"] == ('"' + "k" * 119,)
    assert parsed.drop_counts == tally.dropped


@pytest.mark.invariant("PARSE-009")
@pytest.mark.parametrize(
    ("fault", "shown"),
    [
        ('"bbox_2d": [' + ", ".join(["<|coord_100|>"] * 30) + "]", "[" + ", ".join(["<|coord_100|>"] * 30)[:119]),
        (f'"{"红" * 130}": 1', '"' + "红" * 119),
        (f'"{"😀" * 119}": 1', '"' + "😀" * 119),
        (f'"{"a" * 118}": 1', '"' + "a" * 118 + '"'),
    ],
)
def test_an_excerpt_is_cut_to_120_characters_of_text(fault: str, shown: str) -> None:
    (drop,) = ToyTokens([f'{{"objects": [{{"desc": "a", {fault}}}]}}']).parse().dropped
    assert drop.excerpt == shown and len(shown) == 120


@pytest.mark.invariant("PARSE-009")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prose", 'the answer does not begin with {"objects": ['),
        (f'{{"objects": [{CAT}, 5]}}', "1 objects are followed by neither a comma and an object nor ]"),
        (f'{{"objects": [{CAT}, {DOG}', "the answer ends before its last }, after 2 complete objects"),
        (f'{{"objects": [{CAT},]}}', "a comma stands before the ] of the array"),
        (f'{{"objects": [{CAT}]}}!', "the ] of the array is followed by more than }"),
        (f'{{"objects": [{CAT}, {BAD}, 5]}}', "object 2 of 2 is dropped: missing_desc at tokens 8..8, '\"\"'"),
    ],
)
def test_a_failure_is_said_in_words(text: str, words: str) -> None:
    parsed = ToyTokens([text]).parse()
    assert describe_failure(parsed) == words


@pytest.mark.invariant("PARSE-009")
def test_a_well_formed_answer_has_no_failure_to_describe() -> None:
    with pytest.raises(ValueError, match=r"^the answer is strictly well-formed: nothing failed$"):
        describe_failure(ToyTokens([f'{{"objects": [{CAT}]}}']).parse())
