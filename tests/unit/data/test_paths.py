"""Image paths: one answer for learner, server and checker; never the caller's cwd; never outside the root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coordexp.data.paths import ROOT_VARIABLE, ImagePathError, image_root, resolve_image, resolve_record_images
from coordexp.data.types import Record


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """data/train.jsonl with data/images/a.png, and an image outside."""
    (tmp_path / "data/images").mkdir(parents=True)
    for place in ("data/images/a.png", "outside.png"):
        (tmp_path / place).write_bytes(b"x")
    (tmp_path / "data/train.jsonl").write_text("")
    return tmp_path.resolve()


@pytest.mark.invariant("DATA-015")
def test_paths_start_from_the_jsonl_folder(tree: Path) -> None:
    expected = tree / "data/images/a.png"
    assert resolve_image(tree / "data/train.jsonl", "images/a.png") == expected
    assert resolve_image(f"{tree}/data/train.jsonl:12", "images/a.png") == expected
    assert resolve_image(f"{tree}/data/train.jsonl:12", "./images/../images/a.png") == expected


@pytest.mark.invariant("DATA-015")
def test_a_root_takes_the_place_of_the_jsonl_folder(tree: Path) -> None:
    assert resolve_image("/elsewhere/x.jsonl:1", "images/a.png", tree / "data") == tree / "data/images/a.png"


@pytest.mark.invariant("DATA-015")
def test_the_working_folder_changes_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(f"{tree}/data/train.jsonl:1", ("images/a.png",), 1, 1, ())
    roots, found = set(), set()
    for folder in (tree, tree / "data", Path("/")):
        monkeypatch.chdir(folder)
        roots.add(image_root(tree / "data/train.jsonl", {}))
        found.add(resolve_record_images(record))
        found.add(resolve_record_images(record, image_root(tree / "data/train.jsonl", {})))
    assert roots == {tree / "data"}
    assert found == {(tree / "data/images/a.png",)}


@pytest.mark.invariant("DATA-015")
def test_the_configured_root_comes_before_the_variable_and_the_variable_before_the_jsonl(tree: Path) -> None:
    jsonl = tree / "data/train.jsonl"
    assert image_root(jsonl, {}) == tree / "data"
    assert image_root(jsonl, {ROOT_VARIABLE: str(tree)}) == tree
    assert image_root(jsonl, {ROOT_VARIABLE: str(tree)}, tree / "data/images") == tree / "data/images"


@pytest.mark.invariant("DATA-015")
@pytest.mark.parametrize("value", ["", "data", "./data", "/no/such/folder"])
def test_a_root_that_is_relative_or_absent_is_refused(tree: Path, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    with pytest.raises(ImagePathError, match=ROOT_VARIABLE):
        image_root(tree / "data/train.jsonl", {ROOT_VARIABLE: value})
    with pytest.raises(ImagePathError, match=r"custom\.image_root"):
        image_root(tree / "data/train.jsonl", {}, Path(value))


@pytest.mark.invariant("DATA-016")
@pytest.mark.parametrize(
    "image", ["../outside.png", "images/../../outside.png", "/etc/passwd", "images/link.png", "loop/a"]
)
def test_no_path_leaves_its_root(tree: Path, image: str) -> None:
    os.symlink(tree / "outside.png", tree / "data/images/link.png")
    os.symlink(tree, tree / "data/loop")
    with pytest.raises(ImagePathError, match="outside its root"):
        resolve_image(f"{tree}/data/train.jsonl:3", image)


@pytest.mark.invariant("DATA-016")
def test_a_folder_whose_name_begins_like_the_root_is_outside(tree: Path) -> None:
    (tree / "data2").mkdir()
    with pytest.raises(ImagePathError):
        resolve_image(tree / "data/train.jsonl", "../data2/a.png")


@pytest.mark.invariant("DATA-016")
def test_absolute_paths_and_links_inside_the_root_are_fine(tree: Path) -> None:
    os.symlink(tree / "data/images/a.png", tree / "data/b.png")
    os.symlink(tree / "data", tree / "alias")
    expected = tree / "data/images/a.png"
    assert resolve_image(tree / "data/train.jsonl", str(expected)) == expected
    assert resolve_image(tree / "data/train.jsonl", "b.png") == expected
    assert resolve_image(tree / "alias/train.jsonl", "images/a.png") == expected
