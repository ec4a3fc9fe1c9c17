"""Where a problem is said to be, and in which order problems come: the named file first, then its parents, by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordexp.config import ConfigError, load_config
from coordexp.config.source import Node, node_at
from tests.unit.config.minimal import STAGE1, problems, problems_of, with_values, write

ROOT = Path(__file__).resolve().parents[3]


def keys_told(path: Path) -> list[str]:
    """The keys of a file's problems, in the order told."""
    return [problem.split(": ")[1] for problem in problems_of(path)]


@pytest.mark.invariant("CONFIG-007")
def test_problems_of_the_named_file_come_before_those_of_its_parents(tmp_path):
    write(tmp_path, {"debug": {"enable": True}, **STAGE1}, "base.yaml")
    path = write(tmp_path, {"extends": "base.yaml", "training": {"seed": 1, "steps": 1}, "custom": {"aaa": 1}})
    assert problems_of(path)[0].startswith("run.yaml:4: training.steps: ")
    assert keys_told(path) == ["training.steps", "custom.aaa", "debug.enable"]


@pytest.mark.invariant("CONFIG-007")
def test_a_parent_that_can_not_be_read_comes_first(tmp_path):
    (tmp_path / "broken.yaml").write_text("fine: 1\na: b: c\n")
    path = write(tmp_path, {"training": {"zzz": 1}, "extends": "broken.yaml"})
    assert [problem.split(":")[0] for problem in problems_of(path)] == ["broken.yaml", "run.yaml"]


@pytest.mark.invariant("CONFIG-007")
@pytest.mark.parametrize(
    ("path", "line"),
    [
        *[((), 1), ((0,), 1), (("items",), 2), (("items", 0), 3)],
        *[(("items", 1), 2), (("items", "x"), 2), (("items", 0, 5), 3)],
    ],
)
def test_a_place_that_is_not_there_is_the_deepest_one_on_the_way(path, line):
    file = Path("run.yaml")
    root = Node({"items": Node([Node("text", file, 3)], file, 2)}, file, 1)
    assert node_at(root, path).line == line


@pytest.mark.invariant("CONFIG-007")
def test_a_colon_in_a_folders_name_changes_no_order(tmp_path):
    document = with_values(STAGE1, {"training.zzz": 1, "custom.aaa": 1})
    del document["model"]
    path = write(tmp_path / "a:b", document)
    assert keys_told(path) == ["model", "training.zzz", "custom.aaa"]


@pytest.mark.invariant("CONFIG-007")
def test_a_missing_section_is_told_of_the_file_and_a_missing_key_of_its_section(tmp_path):
    document = with_values(STAGE1, {})
    del document["model"]
    del document["training"]["run_name"]
    section, key = problems(tmp_path, document)
    assert section.startswith("run.yaml: model: required and missing: ")
    assert key.startswith("run.yaml:6: training.run_name: required and missing: ")


@pytest.mark.invariant("CONFIG-002")
def test_a_chain_is_read_up_to_twenty_steps_away(tmp_path):
    for number in range(20):
        write(tmp_path, {"extends": f"{number + 1}.yaml"}, f"{number}.yaml")
    write(tmp_path, STAGE1, "20.yaml")
    assert len(load_config(tmp_path / "0.yaml").sources.files) == 21
    write(tmp_path, {"extends": "21.yaml"}, "20.yaml")
    write(tmp_path, STAGE1, "21.yaml")
    (told,) = problems_of(tmp_path / "0.yaml")
    assert told == "20.yaml:1: extends: is 21 files away from 0.yaml; keep a chain within 20"


@pytest.mark.invariant("CONFIG-016")
def test_the_root_of_a_file_outside_every_project_is_this_checkout(tmp_path):
    assert load_config(write(tmp_path, STAGE1)).sources.root == ROOT


@pytest.mark.invariant("CONFIG-007")
def test_the_error_names_its_file_and_counts_its_problems(tmp_path):
    path = write(tmp_path, with_values(STAGE1, {"training.zzz": 1, "custom.aaa": 1}))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.source == str(path)
    assert str(caught.value).startswith(f"{path}: 2 problems\n  {path}:12: training.zzz: unknown key; ")
