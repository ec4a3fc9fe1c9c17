"""Three readings of the record contract on generated lines: the quick decoder, the rules and the JSON Schema."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.data.rules import find_problems
from coordexp.data.wire import decode_line
from coordexp.spec import read_schema, violations
from tests.strategies import COORD_TOKENS

BEYOND = set(read_schema("record")["x-beyond-schema"])
JUNK: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    1.5,
    999,
    1e300,
    2**64,
    "",
    " ",
    "cat",
    "<|coord_5|>",
    "<|coord_05|>",
    "<|im_end|>",
    [],
    {},
    [1, 1, 2, 2],
    ["<|coord_1|>"] * 4,
    {"desc": "a"},
    "é\u2028",
    "a:b",
]
KEYS = ["images", "width", "height", "objects", "summary", "metadata", "desc", "bbox_2d", "poly", "bbox", "line", "x"]

descs = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6) | st.sampled_from(["cat", "a: b"])


@st.composite
def found_objects(draw: st.DrawFn, coordinates: st.SearchStrategy[Any]) -> dict[str, Any]:
    kind = draw(st.sampled_from(["bbox_2d", "poly"]))
    size = 4 if kind == "bbox_2d" else 2 * draw(st.integers(3, 5))
    values = draw(st.lists(coordinates, min_size=size, max_size=size))
    return {"desc": draw(descs), kind: values}


@st.composite
def record_payloads(draw: st.DrawFn) -> dict[str, Any]:
    width, height = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    pixels = st.integers(0, 75) | st.floats(0, 75, allow_nan=False)
    coordinates = draw(st.sampled_from([COORD_TOKENS, pixels]))
    record: dict[str, Any] = {
        "images": ["a.png"],
        "width": width,
        "height": height,
        "objects": draw(st.lists(found_objects(coordinates), max_size=3)),
    }
    if draw(st.booleans()):
        record["summary"] = draw(st.text(max_size=3).filter(str.isprintable))
    if draw(st.booleans()):
        record["metadata"] = draw(
            st.dictionaries(st.sampled_from(KEYS), st.sampled_from(JUNK), max_size=3).map(copy.deepcopy)
        )
    return record


def every_place(value: Any) -> list[tuple[Any, Any]]:
    """(container, key or index) of everything inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in [(value, key), *every_place(inner)]]


def mutate(record: dict[str, Any], rng: random.Random) -> None:
    """Remove, replace, add or double something somewhere."""
    container, key = rng.choice(every_place(record))
    action = rng.choice(["remove", "replace", "replace", "add"])
    if action == "remove":
        del container[key]
    elif action == "replace":
        container[key] = copy.deepcopy(rng.choice(JUNK))
    elif isinstance(container, list):
        container.insert(key, copy.deepcopy(rng.choice(JUNK)))
    else:
        container[rng.choice(KEYS)] = copy.deepcopy(rng.choice(JUNK))


def render(record: dict[str, Any], rng: random.Random) -> bytes:
    separators = rng.choice([(", ", ": "), (",", ":"), (" , ", " : ")])
    return json.dumps(record, ensure_ascii=rng.random() < 0.5, separators=separators).encode("utf-8")


def check_verdicts(line: bytes) -> None:
    """The quick way accepts exactly what the rules accept, and the schema everything but what is beyond it."""
    findings = find_problems(line)
    assert (decode_line(line, keys_are_unique=True) is None) == bool(findings)
    if findings:
        assert decode_line(line) is None
    broken = {finding.rule for finding in findings}
    if broken != {"invalid_json"}:
        assert bool(violations("record", json.loads(line))) == bool(broken - BEYOND)


@pytest.mark.invariant("DATA-004")
@given(record_payloads(), st.integers(0, 2**32))
def test_three_readings_agree_on_likely_records(record: dict[str, Any], seed: int) -> None:
    check_verdicts(render(record, random.Random(seed)))


@pytest.mark.invariant("DATA-004")
@given(record_payloads(), st.integers(0, 2**32), st.integers(1, 3))
def test_three_readings_agree_on_damaged_records(record: dict[str, Any], seed: int, damage: int) -> None:
    rng = random.Random(seed)
    for _ in range(damage):
        if every_place(record):
            mutate(record, rng)
    check_verdicts(render(record, rng))


@pytest.mark.invariant("DATA-004")
@given(record_payloads(), st.integers(0, 2**32))
def test_a_line_cut_or_changed_anywhere_never_passes_unnoticed(record: dict[str, Any], seed: int) -> None:
    rng = random.Random(seed)
    line = bytearray(render(record, rng))
    line[rng.randrange(len(line))] = rng.randrange(256)
    findings = find_problems(bytes(line))
    assert (decode_line(bytes(line), keys_are_unique=True) is None) == bool(findings)


@pytest.mark.invariant("DATA-003")
@given(record_payloads(), st.integers(0, 2**32))
def test_a_key_written_twice_is_always_found(record: dict[str, Any], seed: int) -> None:
    rng = random.Random(seed)
    holders = [record, *record["objects"]]
    holder = rng.choice(holders)
    key = rng.choice(list(holder))
    text = json.dumps(record, ensure_ascii=False)
    inner = json.dumps(holder, ensure_ascii=False)
    doubled = inner[:-1] + f", {json.dumps(key)}: {json.dumps(holder[key], ensure_ascii=False)}" + "}"
    line = text.replace(inner, doubled, 1).encode("utf-8")
    assert decode_line(line) is None
    assert "duplicate_key" in {finding.rule for finding in find_problems(line)}
