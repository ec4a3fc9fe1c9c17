"""`extends`: what a child keeps, replaces and removes, and where each value was written."""

from __future__ import annotations

import pytest

from coordexp.config import ConfigError, load_config
from tests.unit.config.minimal import STAGE1, problems_of, with_values, write


@pytest.mark.invariant("CONFIG-002")
def test_a_child_replaces_scalars_and_lists_and_merges_mappings(tmp_path):
    write(
        tmp_path,
        with_values(STAGE1, {"training.seed": 1, "training.logging_steps": 5, "training.report_to": []}),
        "base.yaml",
    )
    path = write(tmp_path, {"extends": "base.yaml", "training": {"seed": 2, "report_to": ["tensorboard"]}})
    training = load_config(path).training
    assert (training.seed, training.logging_steps, training.report_to) == (2, 5, ("tensorboard",))


@pytest.mark.invariant("CONFIG-002")
def test_each_value_knows_the_file_and_line_that_wrote_it(tmp_path):
    base = write(tmp_path, with_values(STAGE1, {"training.seed": 1}), "base.yaml")
    path = write(tmp_path, {"extends": "base.yaml", "training": {"logging_steps": 5}})
    sources = load_config(path).sources
    line = 1 + base.read_text().splitlines().index("  seed: 1")
    assert sources.origins["training.seed"] == f"{base}:{line}"
    assert sources.origins["training.logging_steps"] == f"{path}:3"
    assert sources.files == (base, path)


@pytest.mark.invariant("CONFIG-002")
def test_a_fault_inherited_from_a_parent_names_the_parent(tmp_path):
    write(tmp_path, with_values(STAGE1, {"debug.enable": True}), "base.yaml")
    path = write(tmp_path, {"extends": "base.yaml"})
    (problem,) = problems_of(path)
    assert problem.startswith("base.yaml:")
    assert ": debug.enable: unknown key; did you mean enabled? " in problem


@pytest.mark.invariant("CONFIG-002")
def test_later_parents_of_a_list_win_and_the_child_wins_over_all(tmp_path):
    write(
        tmp_path,
        with_values(STAGE1, {"training.seed": 1, "training.save_steps": 1, "training.eval_steps": 1}),
        "a.yaml",
    )
    write(tmp_path, {"training": {"seed": 2, "save_steps": 2}}, "b.yaml")
    path = write(tmp_path, {"extends": ["a.yaml", "b.yaml"], "training": {"seed": 3}})
    training = load_config(path).training
    assert (training.seed, training.save_steps, training.eval_steps) == (3, 2, 1)


@pytest.mark.invariant("CONFIG-002")
def test_null_removes_an_inherited_value_so_the_default_holds(tmp_path):
    write(
        tmp_path, with_values(STAGE1, {"training.seed": 1, "custom.coord_soft_ce_w1": {"enabled": True}}), "base.yaml"
    )
    path = write(tmp_path, {"extends": "base.yaml", "training": {"seed": None}, "custom": {"coord_soft_ce_w1": None}})
    config = load_config(path)
    assert config.training.seed == 17
    assert config.custom.coord_soft_ce_w1.enabled is False
    assert "training.seed" not in config.sources.origins


@pytest.mark.invariant("CONFIG-002")
@pytest.mark.parametrize(("below", "above"), [({"enabled": False}, 3), (3, {"enabled": False}), ([1], {})])
def test_a_section_and_a_value_replace_each_other_whole(tmp_path, below, above):
    write(tmp_path, with_values(STAGE1, {"debug": below}), "base.yaml")
    path = write(tmp_path, {"extends": "base.yaml", "debug": above})
    if isinstance(above, dict):
        assert load_config(path).debug.enabled is False
    else:
        assert problems_of(path) == ["run.yaml:2: debug: 3 is not a mapping"]


@pytest.mark.invariant("CONFIG-002")
def test_a_key_that_a_merged_section_lacks_is_told_of_the_childs_line(tmp_path):
    base = with_values(STAGE1, {})
    del base["training"]["run_name"]
    write(tmp_path, base, "base.yaml")
    (problem,) = problems_of(write(tmp_path, {"extends": "base.yaml", "training": {"seed": 1}}))
    assert problem.startswith("run.yaml:2: training.run_name: required and missing: ")


@pytest.mark.invariant("CONFIG-002")
def test_null_that_removes_nothing_is_an_ordinary_value(tmp_path):
    path = write(tmp_path, with_values(STAGE1, {"training.seed": None}))
    assert problems_of(path) == [
        "run.yaml:12: training.seed: null is not an integer: delete the key, and its default holds"
    ]


@pytest.mark.invariant("CONFIG-002")
def test_extends_is_relative_to_the_file_that_writes_it(tmp_path, monkeypatch):
    write(tmp_path, STAGE1, "deep/base.yaml")
    write(tmp_path, {"extends": "../base.yaml", "training": {"seed": 4}}, "deep/er/mid.yaml")
    path = write(tmp_path, {"extends": "deep/er/mid.yaml"})
    monkeypatch.chdir("/")
    assert load_config(path).training.seed == 4


@pytest.mark.invariant("CONFIG-002")
def test_a_cycle_is_refused_with_the_way_around_it(tmp_path):
    write(tmp_path, {"extends": "b.yaml"}, "a.yaml")
    write(tmp_path, {"extends": "a.yaml"}, "b.yaml")
    with pytest.raises(ConfigError, match=r"b\.yaml:1: extends: extends itself: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        load_config(tmp_path / "a.yaml")


def test_two_ways_to_the_same_parent_are_no_cycle(tmp_path):
    write(tmp_path, STAGE1, "top.yaml")
    write(tmp_path, {"extends": "top.yaml"}, "a.yaml")
    write(tmp_path, {"extends": "top.yaml", "training": {"seed": 9}}, "b.yaml")
    path = write(tmp_path, {"extends": ["a.yaml", "b.yaml"]})
    assert load_config(path).training.seed == 9


@pytest.mark.invariant("CONFIG-002")
def test_a_missing_parent_is_named_where_it_is_written(tmp_path):
    path = write(tmp_path, {"training": {"seed": 1}, "extends": "gone.yaml"})
    assert problems_of(path) == ["run.yaml:3: extends: no such file: gone.yaml"]


@pytest.mark.parametrize("extends", [3, "", [], ["base.yaml", 3], {"file": "base.yaml"}])
def test_extends_is_a_path_or_a_list_of_paths(tmp_path, extends):
    path = write(tmp_path, {**STAGE1, "extends": extends})
    (problem,) = problems_of(path)
    assert ": extends: must be the path of a file" in problem


@pytest.mark.invariant("CONFIG-002")
@pytest.mark.invariant("CONFIG-007")
@pytest.mark.parametrize(
    ("extends", "says"),
    [
        ("gone.yaml", "run.yaml:1: extends: no such file: gone.yaml"),
        (["gone.yaml", "base.yaml"], "run.yaml:1: extends: no such file: gone.yaml"),
        ({"a": "base.yaml"}, "run.yaml:1: extends: must be the path of a file"),
        (["base.yaml", {"a": 1}], "run.yaml:1: extends: must be the path of a file"),
        ("a\0b", "run.yaml:1: extends: must be the path of a file"),
        ("run.yaml", "run.yaml:1: extends: extends itself: run.yaml -> run.yaml"),
        ("broken.yaml", "broken.yaml:1: no valid YAML"),
    ],
)
def test_a_parent_that_can_not_be_read_hides_no_other_problem(tmp_path, extends, says):
    write(tmp_path, STAGE1, "base.yaml")
    (tmp_path / "broken.yaml").write_text("a: b: c\n")
    path = write(tmp_path, {"extends": extends, "debug": {"enable": True}, "training": {"save_safetensors": True}})
    found = problems_of(path)
    assert any(problem.startswith(says) for problem in found)
    keys = {problem.split(": ")[1] for problem in found}
    assert {"debug.enable", "training.save_safetensors"} <= keys
    assert len(found) == 3


@pytest.mark.invariant("CONFIG-002")
def test_a_chain_without_end_is_refused_and_one_of_twenty_is_read(tmp_path):
    write(tmp_path, STAGE1, "20.yaml")
    for number in range(20):
        write(tmp_path, {"extends": f"{number + 1}.yaml"}, f"{number}.yaml")
    assert len(load_config(tmp_path / "1.yaml").sources.files) == 20
    write(tmp_path, {**STAGE1, "extends": "21.yaml"}, "20.yaml")
    write(tmp_path, {}, "21.yaml")
    (problem,) = problems_of(tmp_path / "0.yaml")
    assert "files away from" in problem


@pytest.mark.invariant("CONFIG-002")
def test_a_parent_of_two_parents_is_read_once_and_its_problems_told_once(tmp_path):
    write(tmp_path, with_values(STAGE1, {"debug.enable": True}), "base.yaml")
    for name in ("a.yaml", "b.yaml"):
        write(tmp_path, {"extends": "base.yaml"}, name)
    (problem,) = problems_of(write(tmp_path, {"extends": ["a.yaml", "b.yaml"]}))
    assert ": debug.enable: " in problem
