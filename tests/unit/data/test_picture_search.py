"""Folders, globs and files as people name them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from coordexp.data.errors import DataError
from coordexp.data.picture_search import find_pictures

pytestmark = pytest.mark.invariant("EVAL-070")
FILES = (
    "album [2]/b.JPG",
    "album [2]/a.png",
    "album [2]/deep er/ü.Jpeg",
    "album [2]/notes.txt",
    "album [2]/.hidden.png",
    "album [2]/.cache/x.png",
    "album [2]/._a.png",
    "star*.png",
    "starling.png",
    "odd.bin",
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["album [2]"], ["album [2]/a.png", "album [2]/b.JPG", "album [2]/deep er/ü.Jpeg"]),
        (["./album [2]/"], ["album [2]/a.png", "album [2]/b.JPG", "album [2]/deep er/ü.Jpeg"]),
        (["album [2]/a.png", "album [2]/../album [2]/a.png"], ["album [2]/a.png"]),
        (["album [2]/*.png"], ["album [2]/a.png"]),
        (["album [2]/*"], ["album [2]/a.png", "album [2]/b.JPG"]),
        (["**/*.[Jj][Pp]*"], ["album [2]/b.JPG", "album [2]/deep er/ü.Jpeg"]),
        (["star*.png"], ["star*.png"]),
        (["star*"], ["star*.png", "starling.png"]),
        (["odd.bin"], ["odd.bin"]),
        (["album [2]/.hidden.png"], ["album [2]/.hidden.png"]),
        (["starling.png", "album [2]/a.png"], ["album [2]/a.png", "starling.png"]),
    ],
)
def test_names_stand_for_these(place: Path, names: list[str], found: list[str]) -> None:
    assert find_pictures(names, place / "out") == found


def test_absolute_names_stay_absolute_and_are_the_same_pictures(place: Path) -> None:
    found = find_pictures([str(place / "album [2]"), "album [2]"], place / "out")
    assert found == [str(place / name) for name in ("album [2]/a.png", "album [2]/b.JPG", "album [2]/deep er/ü.Jpeg")]


def test_what_lies_in_the_output_is_no_picture_of_the_folder(place: Path) -> None:
    for name in ("out/pictures/a.jpg", "outer/a.jpg"):
        (place / name).parent.mkdir(parents=True)
        (place / name).touch()
    assert find_pictures(["."], Path("out"))[-3:] == ["outer/a.jpg", "star*.png", "starling.png"]


def test_pictures_below_the_output_are_refused_as_such(place: Path) -> None:
    with pytest.raises(DataError, match=r"lies in the folder of the answers"):
        find_pictures(["album [2]"], Path("."))


def test_a_link_to_a_folder_is_followed_where_it_is_named_alone(place: Path) -> None:
    (place / "link").symlink_to(place / "album [2]")
    (place / "album [2]/round").symlink_to(place)
    assert find_pictures(["link"], place / "out") == ["link/a.png", "link/b.JPG", "link/deep er/ü.Jpeg"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere: does not exist"),
        ("", "an empty name"),
        ("~/album*/a.png", "a shell leaves ~ in quotes as it is"),
        ("empty", "the folder holds no picture"),
        ("*.gif", "as a glob it matches no file"),
        ("odd.*", "as a glob it matches other files (1), none with a picture's name"),
        ("album [2]/nowhere.jpg", "as a glob it matches no file"),
    ],
)
def test_a_name_for_nothing_is_refused(place: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=r".") as refused:
        find_pictures([name], place / "out")
    assert message in str(refused.value)


def test_a_folder_that_is_not_read_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(folder: str, real: Any = os.scandir) -> Any:
        if "deep er" in str(folder):
            # Root, who may run this, reads every folder.
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"deep er: the folder cannot be read \(Permission denied\)"):
        find_pictures(["album [2]"], place / "out")
