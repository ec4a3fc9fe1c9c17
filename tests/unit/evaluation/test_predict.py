"""`predict` on files as people have them: answers are an evaluation's, boxes lie on the picture as it is displayed."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO

from coordexp.artifacts.predicting import drawn_name
from coordexp.data.shapes import SplitSpec, write_splits
from coordexp.entrypoints import cook, evaluate, predict
from coordexp.spec import check

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "configs/stage1/smoke/shapes.yaml"
TINY = ROOT / "fixtures/tiny-qwen3vl"
COUNT = 6
TOKENS = ("--max-new-tokens", "96")
ORIENTATION = 0x0112
STORED = {3: Image.Transpose.ROTATE_180, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90}
"""How a picture is stored that viewers turn back by its EXIF orientation."""


def ask(names: list[Path | str], out: Path, *more: Path | str, checkpoint: Path = TINY) -> int:
    """`predict` as from the command line; its exit code."""
    given = [checkpoint, *names, "--out", out, "--config", CONFIG, *TOKENS, *more]
    return predict.main(list(map(str, given)))


def lines_of(out: Path) -> list[dict[str, Any]]:
    content = (out / "answers.jsonl").read_bytes()
    return [check("prediction-line", json.loads(line)) for line in content.split(b"\n") if line]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn shapes in sizes that cooking changes: `raw/` with annotations, and `cooked/`."""
    folder = tmp_path_factory.mktemp("shapes")
    write_splits(folder, [SplitSpec("raw", COUNT, "plain")], seed=11)
    given = {"--annotations": folder / "raw/annotations.json", "--images": folder / "raw", "--max-pixels": 65536}
    given |= {"--out": folder / "cooked"}
    with contextlib.redirect_stdout(io.StringIO()):
        assert cook.main([str(part) for pair in given.items() for part in pair]) == 0
    return folder


@pytest.fixture(scope="module")
def evaluated(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation of the cooked records against the raw annotations."""
    out = tmp_path_factory.mktemp("evaluated")
    given = {"--config": CONFIG, "--checkpoint": TINY, "--jsonl": shapes / "cooked/records.jsonl", "--out": out}
    given |= {"--annotations": shapes / "raw/annotations.json", "--max-new-tokens": 96}
    assert evaluate.main([str(part) for pair in given.items() for part in pair]) == 0
    return out


def by_stem(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {Path(row["image"]).stem: row for row in rows}


@pytest.mark.invariant("EVAL-071")
@pytest.mark.parametrize("kind", ["cooked", "raw"])
def test_answers_and_boxes_are_those_of_an_evaluation(shapes: Path, evaluated: Path, tmp_path: Path, kind: str) -> None:
    assert ask([shapes / kind], tmp_path / "out", "--batch-size", "4") == 0
    wanted = by_stem([json.loads(line) for line in (evaluated / "predictions.jsonl").read_text().splitlines()])
    found = by_stem(lines_of(tmp_path / "out"))
    assert len(found) == COUNT and found.keys() == wanted.keys()
    assert {name: row["text"] for name, row in found.items()} == {name: row["text"] for name, row in wanted.items()}
    resized = 0
    for name, row in found.items():
        own = wanted[name]
        # The evaluation's boxes are in raw pixels.
        across, down = row["width"] / own["width"], row["height"] / own["height"]
        assert (row["width"], row["height"]) == (own["width"], own["height"]) if kind == "raw" else row["shown"]
        resized += row["shown"] != [row["width"], row["height"]]
        assert len(row["objects"]) == len(own["predictions"])
        for mine, theirs in zip(row["objects"], own["predictions"], strict=True):
            x1, y1, x2, y2 = theirs["box"]
            assert mine["desc"] == theirs["desc"]
            assert mine["box"] == pytest.approx([x1 * across, y1 * down, x2 * across, y2 * down], abs=1e-9)
            assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)
    assert sum(len(row["objects"]) for row in found.values()) >= COUNT
    assert bool(resized) == (kind == "raw")


@pytest.mark.invariant("EVAL-071")
def test_coco_results_of_raw_pictures_are_those_of_the_evaluation(
    shapes: Path, evaluated: Path, tmp_path: Path
) -> None:
    assert ask([shapes / "raw"], tmp_path / "out", "--no-pictures") == 0
    annotated = json.loads((shapes / "raw/annotations.json").read_text())
    theirs = {image["id"]: Path(image["file_name"]).stem for image in annotated["images"]}
    kinds = {kind["id"]: kind["name"] for kind in annotated["categories"]}
    wanted = [
        (theirs[row["image_id"]], kinds[row["category_id"]], row["bbox"])
        for row in json.loads((evaluated / "coco_results.json").read_text())
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        images = COCO(str(tmp_path / "out/coco_images.json"))
        results = images.loadRes(str(tmp_path / "out/coco_results.json"))
    found = [
        (
            Path(images.imgs[row["image_id"]]["file_name"]).stem,
            images.cats[row["category_id"]]["name"],
            row["bbox"],
        )
        for row in results.dataset["annotations"]
    ]
    known = [row for row in found if row[1] in kinds.values()]
    assert [row[:2] for row in sorted(known)] == [row[:2] for row in sorted(wanted)]
    for (_, _, mine), (_, _, own) in zip(sorted(known), sorted(wanted), strict=True):
        assert mine == pytest.approx(own, abs=1e-9)


@pytest.mark.invariant("EVAL-072")
@pytest.mark.parametrize("orientation", sorted(STORED))
def test_a_turned_picture_is_answered_as_viewers_show_it(shapes: Path, tmp_path: Path, orientation: int) -> None:
    source = sorted((shapes / "raw").rglob("*.png"))[0]
    with Image.open(source) as opened:
        upright = opened.convert("RGB")
    folder = tmp_path / "photos"
    folder.mkdir()
    upright.save(folder / "upright.png")
    stored = upright.transpose(STORED[orientation])
    exif = stored.getexif()
    exif[ORIENTATION] = orientation
    stored.save(folder / "turned.png", exif=exif)
    clear = upright.convert("RGBA")
    clear.save(folder / "clear.png")
    assert ask([folder], tmp_path / "out") == 0
    clear_line, turned, plain = lines_of(tmp_path / "out")
    assert plain["objects"]
    for line in (clear_line, turned):
        assert (line["width"], line["height"]) == upright.size
        assert line["text"] == plain["text"]
        assert [found["box"] for found in line["objects"]] == [found["box"] for found in plain["objects"]]
    with (
        Image.open(tmp_path / "out" / drawn_name(turned["image"])) as one,
        Image.open(tmp_path / "out" / drawn_name(plain["image"])) as other,
    ):
        assert one.size == other.size


def broken_folder(shapes: Path, folder: Path) -> Path:
    """One picture that is read, and four files that are none."""
    folder.mkdir()
    shutil.copy(sorted((shapes / "raw").rglob("*.png"))[0], folder / "b fine.PNG")
    (folder / "a broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    (folder / "c empty.jpg").write_bytes(b"")
    Image.new("RGB", (4000, 10)).save(folder / "d long.png")
    Image.new("I;16", (64, 64)).save(folder / "e deep.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"no picture")
    return folder


@pytest.mark.invariant("EVAL-077")
def test_pictures_that_are_not_read_are_named_and_the_others_answered(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = broken_folder(shapes, tmp_path / "my photos [1]")
    assert ask([folder], tmp_path / "out", "--batch-size", "2") == 1
    shown = capsys.readouterr()
    assert "1 of 5 pictures answered" in shown.out and "4 of 5 pictures were not answered" in shown.err
    (line,) = lines_of(tmp_path / "out")
    assert line["image"] == str(folder / "b fine.PNG")
    summary = check("prediction-summary", json.loads((tmp_path / "out/summary.json").read_text()))
    reasons = {Path(each["image"]).name: each["reason"] for each in summary["unanswered"]}
    assert reasons == {
        "a broken.png": "truncated_image", "c empty.jpg": "not_an_image", "d long.png": "image_aspect",
        "e deep.png": "unsupported_depth",
    }  # fmt: skip
    assert all(name in shown.err for name in reasons)
    images = check("prediction-images", json.loads((tmp_path / "out/coco_images.json").read_text()))["images"]
    assert [(image["id"], image["file_name"]) for image in images] == [(2, line["image"])], "ids are places by name"
    assert not (tmp_path / "out/.shown").exists()


@pytest.mark.invariant("EVAL-077")
def test_a_picture_that_is_put_right_is_answered_by_the_same_call(shapes: Path, tmp_path: Path) -> None:
    folder = broken_folder(shapes, tmp_path / "photos")
    assert ask([folder], tmp_path / "out") == 1
    before = lines_of(tmp_path / "out")
    for name in ("c empty.jpg", "d long.png", "e deep.png"):
        (folder / name).unlink()
    shutil.copy(sorted((shapes / "raw").rglob("*.png"))[1], folder / "a broken.png")
    assert ask([folder], tmp_path / "out") == 0
    first, second = lines_of(tmp_path / "out")
    assert Path(first["image"]).name == "a broken.png" and second == before[0], "lines come in the order of names"


@pytest.mark.invariant("EVAL-076")
def test_every_picture_has_a_drawing_of_its_own(shapes: Path, tmp_path: Path) -> None:
    source = sorted((shapes / "raw").rglob("*.png"))
    for number, name in enumerate(
        ["one/a.png", "two/a.png", "one/a.b.png", "two/Straße \ud800 ñ" + "x" * 150 + ".PNG"]
    ):
        target = tmp_path / "photos" / name.replace("\ud800", "\udcff")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source[number], target)
    assert ask([tmp_path / "photos"], tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out")
    drawn = {drawn_name(line["image"]) for line in lines}
    assert len(drawn) == len(lines) == 4
    assert {f"pictures/{path.name}" for path in (tmp_path / "out/pictures").iterdir()} == drawn
    colored = 0
    for line in lines:
        with Image.open(tmp_path / "out" / drawn_name(line["image"])) as picture, Image.open(line["image"]) as own:
            wide, high = own.size
            scale = max(1, 480 / max(wide, high))
            assert picture.size == (480 if wide * scale < 480 else round(wide * scale), round(high * scale) + 24)
        colored += bool(line["objects"])
    assert colored
    gone = tmp_path / "out" / sorted(drawn)[0]
    gone.unlink()
    assert ask([tmp_path / "photos"], tmp_path / "out") == 0
    assert gone.exists(), "a drawing that a kill has cost is made by the next call"


@pytest.mark.invariant("EVAL-077")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["nowhere"]}, "nowhere: does not exist"),
        ({"names": ["nowhere/*.jpg"]}, "as a glob it matches no file"),
        ({"--checkpoint": "nowhere"}, "no such checkpoint folder"),
        ({"--config": "nowhere.yaml"}, "nowhere.yaml"),
        ({"--limit": "0"}, "the limit must be at least 1, got 0"),
        ({"--batch-size": "0"}, "the batch size must be at least 1, got 0"),
        ({"--max-new-tokens": "0"}, "max_new_tokens is 0"),
        ({"--max-new-tokens": "5000"}, "exceeds the model's max_position_embeddings 4096; lower max_new_tokens to"),
        ({"--server": "nowhere"}, "nowhere is no address of a server; write http://HOST:PORT"),
        ({"--server": "http://127.0.0.1:9"}, "nothing can be reached there"),
    ],
)
def test_bad_input_ends_with_one_message(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    names, checkpoint = change.pop("names", [shapes / "raw"]), change.pop("--checkpoint", TINY)
    given = {"--config": CONFIG} | change
    more = [part for pair in given.items() for part in pair]
    assert predict.main(list(map(str, [checkpoint, *names, "--out", tmp_path / "out", *more]))) == 1
    err = capsys.readouterr().err
    start = err.index("predict: ")
    assert message in err[start:] and "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.invariant("EVAL-077")
def test_nothing_found_is_whole_too(tmp_path: Path) -> None:
    """An answer without objects, by the grammar: files are there, and images load."""
    Image.new("RGB", (64, 64), "white").save(tmp_path / "blank.png")
    assert ask([tmp_path / "blank.png"], tmp_path / "out", "--grammar", "--limit", "3") == 0
    (line,) = lines_of(tmp_path / "out")
    settings = check("prediction-settings", json.loads((tmp_path / "out/settings.json").read_text()))
    assert settings["answering"]["grammar"] is not None
    assert line["failure"] is None or line["finish_reason"] == "length"
    with contextlib.redirect_stdout(io.StringIO()):
        assert len(COCO(str(tmp_path / "out/coco_images.json")).imgs) == 1
