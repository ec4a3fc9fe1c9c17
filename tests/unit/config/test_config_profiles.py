"""Two-channel profiles: one hop from one base, their own pinned keys, and where they are found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from coordexp.config import discover_profiles, load_config
from coordexp.config.hierarchy import PINNED
from coordexp.config.problems import render_path
from tests.unit.config.minimal import problems_of

FAMILY = Path("configs/stage2_two_channel")


@pytest.fixture
def leaf(tmp_path):
    """A copy of the shipped family; its mixed production profile."""
    shutil.copytree(FAMILY, tmp_path / FAMILY)
    return tmp_path / FAMILY / "prod" / "ab_mixed.yaml"


def rewrite(path: Path, **changes) -> None:
    """Replace top-level keys of a YAML file."""
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}, sort_keys=False))


@pytest.mark.invariant("CONFIG-014")
def test_the_copied_profile_loads(leaf):
    assert load_config(leaf).sources.files == (leaf.parents[1] / "base.yaml", leaf)


@pytest.mark.invariant("CONFIG-014")
@pytest.mark.parametrize(
    "extends", [["../base.yaml"], ["../base.yaml", "b_only.yaml"], "b_only.yaml", "../../base.yaml"]
)
def test_a_profile_with_other_parents_is_refused_with_its_chain(leaf, extends):
    shutil.copy(leaf.parents[1] / "base.yaml", leaf.parents[2] / "base.yaml")
    rewrite(leaf, extends=extends)
    leaf.write_text("# A comment first.\n" + leaf.read_text())
    found = problems_of(leaf)
    assert any(
        problem.startswith("ab_mixed.yaml:2: extends: a profile extends exactly ../base.yaml, as text; this one ")
        and ("the list [" in problem) == isinstance(extends, list)
        and "ab_mixed.yaml <- " in problem
        for problem in found
    )


@pytest.mark.invariant("CONFIG-014")
@pytest.mark.parametrize(
    ("extends", "shown"),
    [
        (["../base.yaml", "b_only.yaml"], "the list [../base.yaml, b_only.yaml]"),
        ("b_only.yaml", "b_only.yaml"),
        (None, "nothing"),
    ],
)
def test_a_profile_is_told_what_it_extends(leaf, extends, shown):
    values = {key: value for key, value in yaml.safe_load(leaf.read_text()).items() if key != "extends"}
    leaf.write_text(yaml.safe_dump({"extends": extends, **values} if extends else values, sort_keys=False))
    told = [problem for problem in problems_of(leaf) if ": extends: " in problem]
    assert len(told) == 1
    assert told[0].startswith(
        f"ab_mixed.yaml:1: extends: a profile extends exactly ../base.yaml, as text; this one extends {shown} ("
    )


@pytest.mark.invariant("CONFIG-014")
def test_a_profile_two_hops_away_is_refused_with_its_chain(leaf):
    base = leaf.parents[1] / "base.yaml"
    (leaf.parents[1] / "root.yaml").write_text("debug: {enabled: false}\n")
    rewrite(base, extends="root.yaml")
    (problem,) = problems_of(leaf)
    assert problem.startswith("ab_mixed.yaml:2: extends: a profile is one hop from its base, which extends nothing: ")
    assert problem.endswith(f"{base} <- {leaf.parents[1] / 'root.yaml'}")


@pytest.mark.invariant("CONFIG-014")
@pytest.mark.parametrize("key", PINNED, ids=render_path)
def test_a_profile_that_inherits_a_pinned_key_is_refused_by_its_name(leaf, key):
    values = yaml.safe_load(leaf.read_text())
    section = values
    for part in key[:-1]:
        section = section[part]
    del section[key[-1]]
    leaf.write_text(yaml.safe_dump({name: value or None for name, value in values.items() if value}))
    (problem,) = problems_of(leaf)
    assert problem == f"ab_mixed.yaml:1: a profile pins its own {render_path(key)}; write them in this file"


@pytest.mark.invariant("CONFIG-014")
def test_all_the_inherited_keys_are_named_at_once(leaf):
    values = yaml.safe_load(leaf.read_text())
    del values["training"]["run_name"], values["training"]["vit_lr"]
    leaf.write_text(yaml.safe_dump(values))
    (problem,) = problems_of(leaf)
    assert problem.startswith("ab_mixed.yaml:1: a profile pins its own training.run_name, training.vit_lr; write them")


@pytest.mark.invariant("CONFIG-014")
def test_the_base_and_other_folders_are_no_profiles(leaf):
    other = leaf.parents[1] / "trial" / "x.yaml"
    other.parent.mkdir()
    other.write_text("extends: ../prod/ab_mixed.yaml\n")
    assert load_config(other).training.run_name == load_config(leaf).training.run_name


@pytest.mark.invariant("CONFIG-014")
def test_discovery_lists_profiles_and_nothing_else(leaf):
    configs = leaf.parents[2]
    (configs / "stage2_two_channel" / "prod" / "deeper").mkdir()
    (configs / "stage2_two_channel" / "prod" / "deeper" / "x.yaml").write_text("")
    (configs / "stage2_two_channel" / "prod" / "notes.md").write_text("")
    (configs / "stage2_two_channel" / "x.yaml").write_text("")
    found = {str(path.relative_to(configs / "stage2_two_channel")) for path in discover_profiles(configs)}
    assert found == {
        "prod/a_only.yaml", "prod/ab_mixed.yaml", "prod/b_only.yaml", "smoke/a_only.yaml", "smoke/ab_mixed.yaml",
        "smoke/ab_mixed_pipeline.yaml", "smoke/ab_mixed_st.yaml", "smoke/b_only.yaml", "smoke/b_only_hf.yaml",
        "smoke/ab_mixed_hf.yaml", "smoke/ab_mixed_st_hf.yaml", "smoke/ab_mixed_colocate.yaml", "smoke/quickstart.yaml",
    }  # fmt: skip


@pytest.mark.invariant("CONFIG-015")
def test_a_path_below_the_old_folder_says_where_it_moved(tmp_path):
    gone = tmp_path / "configs" / "stage2_ab" / "prod" / "ab_mixed.yaml"
    moved = "two-channel profiles are configs/stage2_two_channel/{prod,smoke}/*.yaml"
    assert problems_of(gone) == [f"ab_mixed.yaml: configs/stage2_ab/ is gone: {moved}"]


@pytest.mark.invariant("CONFIG-015")
def test_a_file_still_in_the_old_folder_is_refused_too(tmp_path):
    shutil.copytree(FAMILY, tmp_path / "configs" / "stage2_ab")
    found = problems_of(tmp_path / "configs" / "stage2_ab" / "smoke" / "ab_mixed.yaml")
    assert len(found) == 1
    assert "configs/stage2_ab/ is gone" in found[0]


@pytest.mark.invariant("CONFIG-015")
@pytest.mark.parametrize("there", [True, False], ids=["still there", "gone"])
def test_the_old_folder_is_not_reached_by_extends_nor_by_a_link(tmp_path, there):
    old = tmp_path / "configs" / "stage2_ab"
    if there:
        old.mkdir(parents=True)
        shutil.copyfile(FAMILY / "base.yaml", old / "base.yaml")
    child = tmp_path / "run.yaml"
    child.write_text("extends: configs/stage2_ab/base.yaml\n")
    moved = "configs/stage2_ab/ is gone: two-channel profiles are configs/stage2_two_channel/{prod,smoke}/*.yaml"
    assert f"run.yaml:1: extends: {moved}" in problems_of(child)
    link = tmp_path / "link.yaml"
    link.symlink_to(old / "base.yaml")
    assert f"link.yaml: {moved}" in problems_of(link)


@pytest.mark.invariant("CONFIG-015")
def test_a_path_that_only_passes_by_the_old_folder_is_none_of_it(tmp_path):
    shutil.copytree(FAMILY, tmp_path / "configs" / FAMILY.name)
    (tmp_path / "configs" / "stage2_ab").mkdir()
    place = tmp_path / "configs" / "stage2_ab" / ".." / FAMILY.name / "smoke" / "ab_mixed.yaml"
    assert load_config(place).training.run_name


@pytest.mark.invariant("CONFIG-014")
def test_a_profile_that_is_a_link_is_refused(tmp_path):
    shutil.copytree(FAMILY, tmp_path / FAMILY.name)
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(f"extends: {FAMILY.name}/smoke/ab_mixed.yaml\n")
    profile = tmp_path / FAMILY.name / "smoke" / "linked.yaml"
    profile.symlink_to(elsewhere)
    assert problems_of(profile) == ["linked.yaml: a profile is a file of its own, not a link; copy what it leads to"]
