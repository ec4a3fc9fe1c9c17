"""The same image in two sets of records, by what is in the files."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordexp.data.records import read_records
from coordexp.data.shared_images import EXAMPLES, ImageSet, SharedImages, find_shared_images
from coordexp.entrypoints import check_data

Side = Callable[..., ImageSet]


def noise(path: Path, seed: int, side: int = 64) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def side(tmp_path: Path) -> Side:
    """A JSONL in a folder of its own: images by name, each noise of a seed."""

    def make(folder: str, **seeds: int) -> ImageSet:
        lines = []
        for name, seed in seeds.items():
            noise(tmp_path / folder / f"{name}.png", seed)
            lines.append(json.dumps({"images": [f"{name}.png"], "width": 64, "height": 64, "objects": []}) + "\n")
        jsonl = tmp_path / folder / "records.jsonl"
        jsonl.write_text("".join(lines), encoding="utf-8")
        return ImageSet(read_records(jsonl))

    return make


@pytest.mark.invariant("DATA-061")
def test_images_are_the_same_under_any_name(side: Side, tmp_path: Path) -> None:
    train, val = side("train", a=1, b=2, c=3), side("val", x=4, y=2, z=1)
    shared = find_shared_images(train, val)
    pairs = (
        (f"{tmp_path}/val/records.jsonl:2", f"{tmp_path}/train/records.jsonl:2"),
        (f"{tmp_path}/val/records.jsonl:3", f"{tmp_path}/train/records.jsonl:1"),
    )
    assert shared == SharedImages(2, 3, pairs)
    told = shared.render("train", "val")
    assert told.startswith(f"2 of 3 records of val have an image of train, by content ({pairs[0][0]} = {pairs[0][1]}, ")
    assert shared.document()["examples"][0] == {"train": pairs[0][1], "val": pairs[0][0]}
    assert find_shared_images(train, side("other", x=4, y=5)) == SharedImages(0, 2)


@pytest.mark.invariant("DATA-061")
def test_pixels_are_compared_where_they_are_asked_for(side: Side, tmp_path: Path) -> None:
    """The same picture in another file format has other bytes."""
    train, val = side("train", a=1), side("val", x=1)
    picture = tmp_path / "val/x.png"
    with Image.open(picture) as opened:
        opened.save(picture, format="BMP")
    assert find_shared_images(train, val).count == 0
    assert find_shared_images(train, val, decoded=True).count == 1
    noise(picture, 2)
    assert find_shared_images(train, val, decoded=True).count == 0


@pytest.mark.invariant("DATA-061")
def test_few_files_are_read(side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose size is on one side alone cannot be shared, nor need one be read that both sides name."""
    train, val = side("train", a=1, b=2), side("val", x=3, y=1)
    with (tmp_path / "val/x.png").open("ab") as stream:
        stream.write(b"0" * 4000)
    read: list[str] = []
    digest = hashlib.file_digest

    def noted(file: Any, name: str) -> Any:
        read.append(Path(file.name).name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", noted)
    assert find_shared_images(train, val).count == 1
    assert "x.png" not in read and sorted(read) in (["a.png", "y.png"], ["a.png", "b.png", "y.png"])
    read.clear()
    assert find_shared_images(train, train) == SharedImages(2, 2, tuple((r.source, r.source) for r in train.records))
    assert read == []


@pytest.mark.invariant("DATA-061")
def test_what_cannot_be_read_is_in_neither_and_many_are_not_all_spelled_out(side: Side, tmp_path: Path) -> None:
    names = {f"i{k}": k for k in range(EXAMPLES + 2)}
    train, val = side("train", **names), side("val", **names)
    (tmp_path / "train/i0.png").unlink()
    shared = find_shared_images(train, val)
    assert (shared.count, len(shared.examples)) == (EXAMPLES + 1, EXAMPLES)
    assert ", …)" in shared.render("a", "b")
    (tmp_path / "train/i1.png").write_bytes(b"x")
    assert find_shared_images(train, val, decoded=True).count == EXAMPLES


@pytest.mark.invariant("DATA-061")
def test_a_record_that_is_drawn_twice_counts_once(side: Side) -> None:
    train, val = side("train", a=1), side("val", x=1, y=2)
    assert find_shared_images(train, ImageSet((*val.records, *val.records))).total == 2


@pytest.mark.invariant("DATA-061")
def test_check_data_warns_of_each_two_files(side: Side, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    side("train", a=1, b=2), side("val", x=2), side("test", y=3)
    files = [str(tmp_path / name / "records.jsonl") for name in ("train", "val", "test")]
    assert check_data.main(files) == 0
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"warning: 1 of 1 records of {files[1]} have an image of {files[0]}, by content")
    shutil.copy(tmp_path / "val/x.png", tmp_path / "test/y.png")
    assert check_data.main([*files, "--images", "open"]) == 0
    assert capsys.readouterr().err.count("warning: ") == 3
    assert check_data.main([*files, "--images", "none"]) == 0
    assert capsys.readouterr().err == ""
