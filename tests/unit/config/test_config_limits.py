"""How large a configuration file may be, and the whole error about one that can't be read."""

from __future__ import annotations

import pytest
import yaml

from coordexp.config import ConfigError, Problem, load_config
from tests.unit.config.minimal import STAGE1

BODY = yaml.safe_dump({key: value for key, value in STAGE1.items() if key != "custom"}, sort_keys=False)
CUSTOM = "custom:\n  train_jsonl: train.jsonl\n  extra:\n"


def write(folder, extra):
    """The smallest configuration with YAML of our own below custom.extra."""
    path = folder / "run.yaml"
    path.write_text(f"{BODY}{CUSTOM}{extra}", encoding="utf-8")
    return path


def only_problem(path):
    """The one problem of a file that must not load, and the file that the error names."""
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (problem,) = caught.value.problems
    assert caught.value.source == str(path)
    return problem


@pytest.mark.invariant("CONFIG-001")
def test_a_hundred_levels_are_read_and_one_more_is_not(tmp_path):
    assert load_config(write(tmp_path, f"    deep: {'[' * 97}{']' * 97}\n"))
    path = write(tmp_path, f"    deep: {'[' * 98}{']' * 98}\n")
    line = path.read_text().count("\n")
    assert only_problem(path) == Problem((), "is nested deeper than 100 levels; flatten it", f"{path}:{line}")


@pytest.mark.invariant("CONFIG-001")
def test_many_sections_side_by_side_are_not_deep(tmp_path):
    config = load_config(write(tmp_path, "".join(f"    k{number}: []\n" for number in range(120))))
    assert len(config.custom.extra) == 120


def values(path):
    """How many values a file holds, each as often as it is named."""

    def count(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + sum(count(item) for item in inner)

    return count(yaml.safe_load(path.read_text()))


@pytest.mark.invariant("CONFIG-001")
def test_a_hundred_thousand_values_are_read_and_one_more_is_not(tmp_path):
    few = f"    a: &a [{', '.join('x' * 99)}]\n    b: [{', '.join(['*a'] * 990)}]\n"
    rest = 100_000 - values(write(tmp_path, few)) - 1
    path = write(tmp_path, f"{few}    c: [{', '.join('x' * rest)}]\n")
    assert values(path) == 100_000
    assert load_config(path)
    path = write(tmp_path, f"{few}    c: [{', '.join('x' * (rest + 1))}]\n")
    text = "holds more than 100000 values; YAML aliases (*) multiply what they name, so write it out"
    line = path.read_text().count("\n")
    assert only_problem(path) == Problem(("custom", "extra", "c", rest), text, f"{path}:{line}")


@pytest.mark.invariant("CONFIG-007")
@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (None, "", "cannot be read: No such file or directory"),
        (b"\xff", "", "cannot be read: not UTF-8 text"),
        (b"- debug\n", "", "holds no mapping of sections"),
        (b"a: b: c\n", ":1", "no valid YAML: mapping values are not allowed in this context"),
    ],
)
def test_a_file_that_can_not_be_read_is_one_problem_of_the_whole(tmp_path, content, line, message):
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)
    assert only_problem(path) == Problem((), message, f"{path}{line}")
