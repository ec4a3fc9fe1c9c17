"""The quick verdict says yes to nothing that the validator refuses, and yes to what files of answers hold."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from coordexp.spec import ContractViolation, check, violations

LINE: dict[str, Any] = {
    "sample_id": "a.jsonl:1",
    "image": "a.png",
    "width": 64,
    "height": 48,
    "text": "",
    "finish_reason": "stop",
    "response_tokens": 3,
    "failure": {"reason": "truncated", "message": "the answer ends"},
    "truncated": True,
    "dropped": [{"reason": "missing_desc", "offending": '""'}],
    "predictions": [{"desc": "cat", "box": [1, 2.5, 3, 4], "score": 0.5, "said": "Cat"}],
    "ground_truth": [{"desc": "cat", "box": [1, 2.5, 3, 4], "score": 1.0}],
    "unmapped": ["dog", "cow"],
    "split": "first",
    "annotated": {"image_id": 3, "shown": [64, 48], "rows": [{"bbox": [1, 2, 3, 4], "area": 12, "place": 0}]},
    "ignore": [{"desc": None, "box": [0, 0, 9, 9]}],
}
STRANGE: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    1.0,
    0.5,
    10**30,
    "",
    "stop",
    "x" * 200,
    [],
    [1, 2, 3, 4],
    {},
    {"desc": 1},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in inner for found in places(part, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any, *, remove: bool) -> Any:
    """A copy with another part at a path, or without it."""
    if not path:
        return new
    made = copy.deepcopy(value)
    holder = made
    for key in path[:-1]:
        holder = holder[key]
    if remove:
        del holder[path[-1]]
    else:
        holder[path[-1]] = new
    return made


@pytest.mark.invariant("EVAL-092")
@settings(max_examples=400)
@given(st.data())
def test_a_changed_line_passes_exactly_where_the_validator_lets_it(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(places(LINE)))
    new, remove = data.draw(st.sampled_from(STRANGE)), data.draw(st.booleans())
    value = changed(LINE, path, new, remove=remove)
    if data.draw(st.integers(0, 4)) == 0 and isinstance(value, dict):
        value = value | {"other": 1}
    faults = violations("evaluation-prediction", value)
    if faults:
        with pytest.raises(ContractViolation):
            check("evaluation-prediction", value)
    else:
        assert check("evaluation-prediction", value) is value


@pytest.mark.invariant("EVAL-092")
@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
def test_half_of_a_surrogate_pair_is_a_text(text: str) -> None:
    assert check("evaluation-prediction", LINE | {"text": text})["text"] == text


@pytest.mark.invariant("EVAL-092")
@pytest.mark.parametrize("number", [float("inf"), 10**40, True, "64", 64.5, np.int64(64), Path("64")])
def test_numbers_are_those_of_the_validator(number: Any) -> None:
    value = LINE | {"width": number}
    if violations("evaluation-prediction", value):
        with pytest.raises(ContractViolation):
            check("evaluation-prediction", value)
    else:
        assert check("evaluation-prediction", value) is value


@pytest.mark.invariant("EVAL-092")
def test_a_line_of_answers_needs_no_validator(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any) -> Any:
        raise AssertionError("the validator was asked")

    monkeypatch.setattr(Draft202012Validator, "iter_errors", asked)
    assert check("evaluation-prediction", LINE) is LINE
