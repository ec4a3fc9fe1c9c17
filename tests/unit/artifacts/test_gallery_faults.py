"""A gallery of what is damaged, lost or not there at all: named, and the rest is drawn."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from coordexp.artifacts.files import write_json_lines
from coordexp.entrypoints import gallery
from tests.plugins.left import EVAL, MATCHED, SCORED, TRAIN

if TYPE_CHECKING:
    from tests.plugins.left import Left


@pytest.mark.invariant("EVAL-080")
@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        (TRAIN, b'{"mode": "tr', "no JSON"),
        (EVAL, b"[]", "no line of a rollout dump"),
        (EVAL, b"\xff\xfe", "no JSON"),
        (SCORED, b"{}", "no line of an evaluation"),
    ],
)
def test_a_damaged_line_is_named(
    left: Left, capsys: pytest.CaptureFixture[str], name: str, damage: bytes, words: str
) -> None:
    path = left.folder / name
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + damage + b"\n" + b"".join(lines[2:]))
    assert left.draw() == 1
    said = capsys.readouterr().err
    assert said.startswith("gallery: ") and f"{path}:2: {words}" in said and said.count("\n") == 1
    assert not (left.folder / "gallery").exists()


@pytest.mark.invariant("EVAL-080")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objects": [MATCHED | {"truth": 99}]}, "matched and missed name the objects"),
        ({"objects": [{"fate": "fp", "desc": "x"}]}, "an object that is fp lacks bins, kind"),
        ({"objects": [{"fate": "wrong_arity"}]}, "an object that is wrong_arity lacks excerpt"),
        ({"objects": [MATCHED | {"bins": [0, 0, 1, 1000]}]}, "1000"),
    ],
)
def test_a_line_that_contradicts_itself_is_named(
    left: Left, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    left.change(TRAIN, **changes)
    assert left.draw() == 1
    said = capsys.readouterr().err
    assert f"{left.folder / TRAIN}:1: no line of a rollout dump" in said and words in said


@pytest.mark.invariant("EVAL-080")
@pytest.mark.parametrize("make", ["absent", "empty", "hidden", "other"])
def test_nothing_to_draw_says_where_it_looked_and_what_writes_dumps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: str
) -> None:
    place = tmp_path / "a run"
    if make != "absent":
        (place / "rollouts").mkdir(parents=True)
    if make == "hidden":
        (place / ".git/rollouts").mkdir(parents=True)
        (place / ".git/rollouts/step_000000.jsonl").write_text("[]")
        (place / "rollouts/._step_000000.jsonl").write_bytes(b"\x00\x05")
    if make == "other":
        (place / "step_000000.jsonl").write_text("[]")
        (place / "rollouts/step_000000.jsonl").write_text("")
        (place / "rollouts/metrics.jsonl").write_text("[]")
    assert gallery.main([str(place)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"gallery: {place}: ") and said.count("\n") == 1
    wanted = (
        ["no such folder"] if make == "absent" else ["predictions.jsonl", "rollouts/eval_*", "monitor_dump.enabled"]
    )
    assert all(words in said for words in wanted)
    assert not (place / "gallery").exists()


@pytest.mark.invariant("EVAL-083")
def test_pictures_that_are_lost_or_broken_are_named_and_the_rest_is_drawn(
    left: Left, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = left.lines(SCORED)
    names = ["gone.png", "broken.png", "small.png"]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    Image.new("RGB", (7, 7)).save(tmp_path / "small.png")
    write_json_lines(
        left.folder / SCORED,
        [line | {"image": str(tmp_path / name)} for line, name in zip(lines, names, strict=True)],
    )
    assert left.draw() == 0
    said, page = capsys.readouterr().out, left.page()
    assert "(evaluation): 0 of 3 drawn, 3 without a picture" in said and "(sampled): 0 of 6 drawn, 6 without" in said
    for number, (name, words) in enumerate(zip(names, ("does not exist", "ends before", "has 7x7"), strict=True), 1):
        wanted = f"{left.folder / SCORED}:{number}: {tmp_path / name} "
        for shown in (said, page.text):
            assert words in shown[shown.index(wanted) :].splitlines()[0]
    assert {card["data-kind"] for card in page.cards} == {"train", "eval"}
    assert "and 1 more; the page names all" in said
    assert left.draw(place=left.folder / SCORED) == 1
    said = capsys.readouterr().err
    assert "no picture can be drawn" in said and "all 9" in said
    assert not (left.folder / "on val/gallery/gallery.html").exists()


@pytest.mark.invariant("EVAL-083")
def test_dumps_without_their_manifest_say_what_is_lacking(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    (left.folder / "run_manifest.json").unlink()
    assert left.draw() == 0
    assert {card["data-kind"] for card in left.page().cards} == {"evaluation", "sampled"}
    assert "run_manifest.json is not there, which says where the images" in capsys.readouterr().out
    assert left.draw(place=left.folder / TRAIN) == 1
    assert "run_manifest.json is not there" in capsys.readouterr().err


@pytest.mark.invariant("EVAL-084")
def test_a_second_gallery_replaces_the_first_and_touches_nothing_else(left: Left) -> None:
    out = left.folder / "gallery"
    assert left.draw() == 0
    (out / "sheets/mine.png").write_text("mine")
    (out / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in left.folder.rglob("*") if path.is_file() and out not in path.parents}
    first = {path.name for path in out.rglob("*")}
    assert left.draw("--limit", "1") == 0
    after = {path.name for path in out.rglob("*")}
    assert after < first and {"mine.png", "notes.txt"} <= after and len(after) == 4 + 4 + 5
    assert all(path.read_bytes() == content for path, content in before.items())
    shutil.rmtree(left.folder / "rollouts")
    (left.folder / SCORED).write_bytes(b"")
    page = (out / "gallery.html").read_bytes()
    assert left.draw() == 1
    assert (out / "gallery.html").read_bytes() == page, "what cannot be drawn takes nothing away"


@pytest.mark.invariant("EVAL-084")
def test_a_folder_that_is_in_the_way_is_named(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    (left.folder / "gallery").write_text("a file")
    assert left.draw() == 1
    assert f"gallery: {left.folder / 'gallery'}: is a file" in capsys.readouterr().err
