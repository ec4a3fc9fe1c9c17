"""How faults are put into words: nearest words, counts, choices, and rules that no shipped schema needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordexp.config.problems import nearest_match, show
from coordexp.config.rules import Rule, build_rule
from coordexp.config.source import Node
from coordexp.config.validate import find_faults
from coordexp.config.view import UnreadableKeyError, View


def rule(kind: type, name: str, **limits) -> Rule:
    """The rule of a schema with one type."""
    return Rule((name,), frozenset({kind}), "Some words.", None, None, **limits)


def messages(wanted: Rule, value: object) -> list[str]:
    return [fault.message for fault in find_faults(wanted, value)]


@pytest.mark.invariant("CONFIG-003")
@pytest.mark.parametrize(
    ("word", "allowed", "nearest"),
    [
        ("learningRate", ["warmup_ratio", "learning_rate"], "learning_rate"),
        ("aB", ["axxb", "a_b"], "a_b"),
        ("a-b-c-d", ["a_b_c_d"], "a_b_c_d"),
        ("a b c d", ["a_b_c_d"], "a_b_c_d"),
        ("SEED", ["Seed"], "Seed"),
        ("zzz", ["learning_rate"], None),
        ("seed", [], None),
    ],
)
def test_case_hyphens_and_spaces_do_not_make_words_differ(word, allowed, nearest):
    assert nearest_match(word, allowed) == nearest


@pytest.mark.invariant("CONFIG-003")
@pytest.mark.parametrize(
    ("items", "says"),
    [([], "has 0 items, at least 2 needed: Some words."), ([7], "has 1 item, at least 2 needed: Some words.")],
)
def test_one_item_is_counted_in_the_singular(items, says):
    assert messages(rule(list, "array", size=(2, None)), items) == [says]


@pytest.mark.invariant("CONFIG-003")
def test_choices_among_numbers_have_no_nearest_word():
    assert messages(rule(int, "integer", enum=(1, 2)), 3) == ["3 is not allowed; allowed: 1, 2"]


@pytest.mark.invariant("CONFIG-003")
def test_lists_without_limits_hold_what_they_like():
    assert messages(rule(list, "array", unique=True), [1, 2, 1]) == ["1 is listed twice; keep one"]
    assert messages(rule(list, "array"), [1, 1]) == []


@pytest.mark.invariant("CONFIG-007")
def test_a_value_is_shown_whole_up_to_sixty_characters():
    assert show("x" * 58) == f"'{'x' * 58}'"
    assert show("x" * 59) == f"'{'x' * 58}…"
    assert [show(value) for value in (None, True, False, 0, 1.5)] == ["null", "true", "false", "0", "1.5"]


@pytest.mark.invariant("CONFIG-007")
@pytest.mark.parametrize("key", ["model.model", "training.seed", "data.dataset", "debug.enabled"])
def test_a_check_that_asks_for_a_faulty_key_is_told_which(key):
    values = {"training": {"seed": "x"}, "data": {"dataset": ["a"]}, "debug": 3}
    faulty = [("training", "seed"), ("data", "dataset", 0), ("debug",)]
    view = View(build_rule(), values, Node({}, Path("run.yaml"), 1), faulty)
    with pytest.raises(UnreadableKeyError) as caught:
        view[key]
    assert str(caught.value) == key
    with pytest.raises(UnreadableKeyError) as caught:
        list(view.sound_items("debug.enabled"))
    assert str(caught.value) == "debug.enabled"
