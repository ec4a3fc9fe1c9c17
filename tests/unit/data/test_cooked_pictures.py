"""Cooking's pictures: what is copied, flattened, turned, refused; and the same pixels wherever a picture is read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordexp.data.cooking import cook
from coordexp.data.cooking_images import ImageJob, cook_image
from coordexp.data.cooking_types import CookOptions, CookSource
from coordexp.data.errors import DataError
from coordexp.data.pictures import ORIENTATION, PictureError, read_picture
from coordexp.data.records import parse_record, read_records
from coordexp.data.survey import survey_file
from coordexp.encode.images import ImageContractError, read_image
from coordexp.entrypoints.cook import main
from coordexp.rollout.types import RolloutError, RolloutRequest

CASES = Path(__file__).parents[3] / "fixtures/cases"
NOISE = np.random.default_rng(7).integers(0, 256, (64, 96, 4), dtype=np.uint8)
RGB, RGBA = Image.fromarray(NOISE[..., :3]), Image.fromarray(NOISE)


def run_case(name: str, out: Path, *flags: str) -> int:
    case = CASES / name
    paths = ["--annotations", f"{case}/annotations.json", "--images", str(case), "--out", str(out)]
    return main([*paths, "--max-pixels", "16384", *flags])


def pixels_as_read(path: Path, size: tuple[int, int]) -> Any:
    line = {"images": [path.name], "width": size[0], "height": size[1], "objects": []}
    return np.asarray(read_image(parse_record(json.dumps(line).encode(), "case.jsonl:1"), path))


@pytest.mark.invariant("DATA-030")
@pytest.mark.parametrize("name", ["c2-alpha", "c3-palette-transparency"])
def test_cooked_and_own_file_show_the_same_pixels(tmp_path: Path, name: str) -> None:
    assert run_case(name, tmp_path / "out") == 0
    own, cooked = (pixels_as_read(path, (64, 64)) for path in (CASES / name / "a.png", tmp_path / "out/images/a.png"))
    assert np.array_equal(own, cooked)
    assert own[2, 2].tolist() == [255, 255, 255] and own[20, 20].tolist() == [200, 30, 30]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["adjusted"]["alpha_flattened"] == manifest["adjusted"]["image_reencoded"] == 1


@pytest.mark.invariant("DATA-031")
def test_a_photograph_annotated_as_displayed_is_turned_and_its_box_lies_on_the_object(tmp_path: Path) -> None:
    assert run_case("g1-exif-not-square", tmp_path / "out") == 0
    (record,) = read_records(tmp_path / "out/records.jsonl")
    assert (record.width, record.height) == (64, 96)
    image = np.asarray(read_image(record, tmp_path / "out" / record.images[0])).astype(int)
    red = (image[..., 0] > 150) & (image[..., 1] < 100) & (image[..., 2] < 100)
    rows, columns = np.nonzero(red)
    x1, y1, x2, y2 = (bin_ / 999 for bin_ in record.objects[0].bins)
    box = np.array([x1 * 63, y1 * 95, x2 * 63, y2 * 95])
    np.testing.assert_allclose(box, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], atol=2)
    assert json.loads((tmp_path / "out/manifest.json").read_text())["adjusted"]["exif_applied"] == 1


@pytest.mark.invariant("DATA-032")
@pytest.mark.parametrize(
    ("name", "reason", "size", "words"),
    [
        ("c1-16-bit", "unsupported_depth", (64, 64), "magick"),
        ("j7-bomb", "decompression_bomb", (20000, 20000), "400,000,000 pixels"),
    ],
)
def test_what_is_not_guessed_at_is_dropped_under_its_own_reason(
    tmp_path: Path, name: str, reason: str, size: tuple[int, int], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = CASES / name / "a.png"
    outcome = cook_image(ImageJob(path, size, (64, 64), tmp_path / "out/a"))
    assert (outcome.reason, outcome.written, outcome.adjustments) == (reason, None, ())
    assert str(path) in outcome.message and words in outcome.message
    assert run_case(name, tmp_path / "out") == 1 and reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def cook_files(folder: Path, files: dict[str, tuple[bytes, tuple[int, int]]], workers: int = 1, **options: Any) -> Any:
    images, annotations = [], []
    for number, (name, (content, (width, height))) in enumerate(files.items(), 1):
        (folder / "in").mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).write_bytes(content)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [3, 5, 20, 10]})
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (folder / "annotations.json").write_text(json.dumps(coco))
    source = CookSource(folder / "annotations.json", folder / "in")
    return cook(source, folder / "out", CookOptions(96 * 64, **options), workers=workers)


def saved(image: Image.Image, kind: str, orientation: int | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][ORIENTATION] = orientation
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.invariant("DATA-034")
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [None, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_only_an_upright_file_is_copied_and_no_output_has_an_orientation(
    tmp_path: Path, kind: str, orientation: int | None
) -> None:
    content = saved(RGB, kind, orientation)
    manifest = cook_files(tmp_path, {"a.x": (content, RGB.size)}, exif="ignore")
    upright = orientation in (None, 1)
    assert manifest["adjusted"]["image_copied"] == upright
    (written,) = (tmp_path / "out/images").iterdir()
    assert (written.read_bytes() == content) == upright
    with Image.open(written) as opened:
        assert opened.getexif().get(ORIENTATION, 1) == 1
    told = orientation is not None and 2 <= orientation <= 8
    assert manifest["adjusted"]["exif_ignored"] == told
    assert np.array_equal(pixels_as_read(written, RGB.size), np.asarray(read_picture(written, RGB.size).image))


@pytest.mark.invariant("DATA-034")
def test_all_that_was_done_to_an_image_is_counted(tmp_path: Path) -> None:
    big = RGBA.resize((192, 128))
    files = {
        "resized.png": (saved(big, "PNG", orientation=6), (128, 192)),
        "frames.png": (saved(RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)], duration=10), RGB.size),
        "plain.jpg": (saved(RGB, "JPEG"), RGB.size),
        "left.jpg": (saved(RGB, "JPEG", orientation=8), RGB.size),
    }
    manifest = cook_files(tmp_path, files)
    assert {what: count for what, count in manifest["adjusted"].items() if count} == {
        "image_resized": 1,
        "image_reencoded": 2,
        "image_copied": 1,
        "alpha_flattened": 1,
        "exif_applied": 1,
        "exif_ignored": 1,
        "first_frame": 1,
    }
    assert survey_file(tmp_path / "out/records.jsonl", images="open").problems == []


@pytest.mark.invariant("DATA-034")
@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_undecided_orientation_ends_cooking(tmp_path: Path, workers: int) -> None:
    square = RGB.crop((0, 0, 64, 64))
    files = {
        "first.png": (saved(square, "PNG"), (64, 64)),
        "second.jpg": (saved(square, "JPEG", orientation=6), (64, 64)),
        "third.jpg": (saved(RGB, "JPEG", orientation=3), RGB.size),
    }
    with pytest.raises(DataError) as caught:
        cook_files(tmp_path, files, workers)
    for words in (f"{tmp_path}/in/second.jpg ", "EXIF orientation 6", "--exif apply", "--exif ignore"):
        assert words in str(caught.value)
    assert not (tmp_path / "out").exists()
    manifest = cook_files(tmp_path, files, workers, exif="apply")
    assert manifest["options"]["exif"] == "apply" and manifest["adjusted"]["exif_applied"] == 2
    with Image.open(tmp_path / "out/images/third.png") as turned:
        stored = read_picture(tmp_path / "in/third.jpg", RGB.size, "ignore").image
        assert np.array_equal(np.asarray(turned), np.asarray(stored)[::-1, ::-1])


@pytest.mark.invariant("DATA-034")
def test_the_policy_is_a_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    square = RGB.crop((0, 0, 64, 64))
    with pytest.raises(DataError):
        cook_files(tmp_path, {"a.jpg": (saved(square, "JPEG", orientation=3), (64, 64))})
    asked = ["--annotations", f"{tmp_path}/annotations.json", "--images", f"{tmp_path}/in", "--max-pixels", "6144"]
    assert main([*asked, "--out", f"{tmp_path}/refused"]) == 1
    assert "--exif apply" in capsys.readouterr().err
    for policy in ("apply", "ignore"):
        assert main([*asked, "--out", f"{tmp_path}/{policy}", "--exif", policy]) == 0
    turned, left = (pixels_as_read(tmp_path / policy / "images/a.png", (64, 64)) for policy in ("apply", "ignore"))
    assert np.array_equal(turned, left[::-1, ::-1])


@pytest.mark.invariant("DATA-030")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (saved(RGB, "PNG")[:2000], "truncated_image"),
        (saved(Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257), "PNG"), "unsupported_depth"),
        (saved(RGB, "JPEG", orientation=3), "exif_ambiguous"),
        (saved(RGB.resize((96, 96)), "PNG"), "size_mismatch"),
        (b"", "not_an_image"),
        (None, "missing_image"),
    ],
    ids=["truncated", "deep", "undecided", "other size", "empty", "missing"],
)
def test_all_who_read_an_image_refuse_it_in_the_same_words(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path, jsonl = tmp_path / "a.png", tmp_path / "a.jsonl"
    if content is not None:
        path.write_bytes(content)
    jsonl.write_text(json.dumps({"images": ["a.png"], "width": 96, "height": 64, "objects": []}))
    with pytest.raises(PictureError) as caught:
        read_picture(path, RGB.size)
    words = str(caught.value)
    assert caught.value.reason == reason
    outcome = cook_image(ImageJob(path, RGB.size, RGB.size, tmp_path / "out/a"))
    assert (outcome.reason, outcome.message) == (reason, words)
    with pytest.raises(ImageContractError) as refused:
        read_image(read_records(jsonl)[0], path)
    assert str(refused.value) == f"{jsonl}:1: {words}"
    with pytest.raises(RolloutError) as unsent:
        RolloutRequest("s", (1,), (path,), 0, (RGB.size,)).read_images()
    assert str(unsent.value) == f"sample s: {words}"
    if reason != "missing_image":
        (problem,) = survey_file(jsonl, images="open").problems
        assert problem.rule == reason and words in str(problem)
