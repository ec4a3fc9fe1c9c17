"""What a look at an image's header tells: the words of the one reader, without its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coordexp.data.pictures import ORIENTATION, PictureError, check_header, read_picture
from coordexp.data.survey import survey_file
from tests.plugins.stage1 import Stage1Kit

pytestmark = pytest.mark.invariant("DATA-080")

SIZE = (96, 64)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
FORMATS = {"a.png": {}, "a.jpg": {"quality": 90}, "a.webp": {"lossless": True}, "a.tif": {}}


def oriented(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(NOISE).save(path, exif=exif, **FORMATS[path.name])
    return path


def said(look: object, path: Path, declared: tuple[int, int]) -> str:
    try:
        look(path, declared)  # type: ignore[operator]
    except PictureError as error:
        return f"{error.reason}: {error}"
    return "read"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("declared", [SIZE, SIZE[::-1], (32, 32)])
def test_sizes_and_orientations_are_told_as_the_reader_tells_them(
    tmp_path: Path, name: str, orientation: int, declared: tuple[int, int]
) -> None:
    path = oriented(tmp_path / name, orientation)
    assert said(check_header, path, declared) == said(read_picture, path, declared)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("deep.png", np.full((64, 96), 60000, dtype=np.uint16), "unsupported_depth"),
        ("float.tif", np.ones((64, 96), dtype=np.float32), "unsupported_depth"),
        ("text.jpg", b"<html>not found</html>", "not_an_image"),
        ("empty.png", b"", "not_an_image"),
        ("absent.png", None, "missing_image"),
    ],
)
def test_what_is_no_picture_to_train_on_is_told(tmp_path: Path, name: str, content: object, reason: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        Image.fromarray(content).save(path)  # type: ignore[arg-type]
    found = said(check_header, path, SIZE)
    assert found == said(read_picture, path, SIZE)
    assert found.startswith(f"{reason}: {path}")


def test_a_png_that_says_behind_its_pixels_how_it_is_turned_is_read_whole(tmp_path: Path) -> None:
    content = oriented(tmp_path / "a.png", 6).read_bytes()
    start = content.index(b"eXIf") - 4
    length = 12 + int.from_bytes(content[start : start + 4], "big")
    end = content.index(b"IEND") - 4
    moved = content[:start] + content[start + length : end] + content[start : start + length] + content[end:]
    path = tmp_path / "behind.png"
    path.write_bytes(moved)
    assert said(check_header, path, SIZE[::-1]) == "read"
    assert said(check_header, path, (32, 32)) == said(read_picture, path, (32, 32))


def test_pixels_are_left_alone(tmp_path: Path) -> None:
    path = oriented(tmp_path / "a.jpg", 1)
    path.write_bytes(path.read_bytes()[:-200])
    assert said(check_header, path, SIZE) == "read"
    assert said(read_picture, path, SIZE).startswith("truncated_image")


@pytest.mark.parametrize("extra", [["--dry-run"], []])
def test_the_dry_run_refuses_what_training_could_not_read(
    stage1_kit: Stage1Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    from coordexp.entrypoints import check_data, train

    Image.fromarray(NOISE).save(tmp_path / "a.png")
    Image.fromarray(np.full((64, 96), 60000, dtype=np.uint16)).save(tmp_path / "deep.png")
    jsonl = tmp_path / "records.jsonl"
    lines = [f'{{"images": ["{name}"], "width": 96, "height": 64, "objects": []}}\n' for name in ("a.png", "deep.png")]
    jsonl.write_text("".join(lines))
    config = stage1_kit.write(f"headers{len(extra)}", custom={"train_jsonl": str(jsonl), "val_jsonl": None})
    assert train.main(["--config", str(config), *extra]) == 1
    refusal = capsys.readouterr().err
    assert check_data.main([str(jsonl), "--images", "headers"]) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"{jsonl}:2: images[0]: {tmp_path}/deep.png has 16 bits a channel")
    assert told in refusal


@pytest.mark.parametrize(("name", "says"), [("x" * 400, "does not exist"), (".", "is a folder or a device")])
def test_a_path_that_can_be_no_file_is_a_problem(tmp_path: Path, name: str, says: str) -> None:
    jsonl = tmp_path / "records.jsonl"
    jsonl.write_text(f'{{"images": ["{name}"], "width": 64, "height": 64, "objects": []}}\n')
    for images in ("exists", "headers", "open"):
        (problem,) = survey_file(jsonl, images=images).problems  # type: ignore[arg-type]
        assert problem.rule == "image_missing" and says in str(problem)
