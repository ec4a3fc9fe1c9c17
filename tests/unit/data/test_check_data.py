"""The data entry points as they are called: exit codes, one line a problem on stderr, tables on stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from coordexp.data.survey import survey_file
from coordexp.entrypoints import check_data, cook, make_shapes

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

LINE = {"images": ["a.png"], "width": 64, "height": 64, "objects": [{"desc": "cat", "bbox_2d": [1, 1, 9, 9]}]}


def write(path: Path, *records: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(path)
    return path


@pytest.mark.invariant("DATA-020")
def test_a_file_in_order_exits_with_0(tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonl = write(tmp_path / "train.jsonl", LINE, LINE | {"objects": []})
    assert check_data.main([str(jsonl), "--images", "open"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    counted = {row.split("│")[1].strip(): row.split("│")[2].strip() for row in out.splitlines() if row.startswith("│")}
    assert counted["lines"] == counted["records in order"] == "2"
    assert (counted["objects"], counted["records without objects"], counted["problems"]) == ("1", "1", "0")


@pytest.mark.invariant("DATA-020")
def test_every_problem_of_every_file_is_a_line_on_stderr(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write(tmp_path / "a.jsonl", LINE | {"width": 0}, LINE, "{")
    second = write(tmp_path / "b.jsonl", LINE, LINE | {"objects": 3, "extra": 1})
    assert check_data.main([str(first), str(tmp_path / "absent.jsonl"), str(second)]) == 1
    err = capsys.readouterr().err.splitlines()
    found = [line.split(": ")[0] for line in err]
    assert sorted(found[:-1]) == sorted(["check_data", f"{first}:1", f"{first}:3", f"{second}:2", f"{second}:2"])
    assert found[-1] == "warning", "both files hold the same image"


@pytest.mark.invariant("DATA-020")
def test_images_are_looked_at_as_far_as_asked(tmp_path: Path, image: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"x")
    names = ["a.png", "absent.png", "small.png", "broken.png", "../up.png"]
    jsonl = write(tmp_path / "a.jsonl", *[LINE | {"images": [name]} for name in names])
    rules = {look: [p.rule for p in survey_file(jsonl, images=look).problems] for look in ("none", "exists", "open")}
    assert rules == {
        "none": [],
        "exists": ["image_missing", "image_outside_root"],
        "open": ["image_missing", "size_mismatch", "not_an_image", "image_outside_root"],
    }


@pytest.mark.invariant("DATA-020")
@pytest.mark.parametrize("name", ["../up.png", "/etc/hosts"])
def test_an_image_outside_its_root_is_told_with_one_path_of_the_file(tmp_path: Path, name: str) -> None:
    jsonl = write(tmp_path / "a.jsonl", LINE | {"images": [name]})
    (problem,) = survey_file(jsonl, images="exists").problems
    assert str(problem).count(str(jsonl)) == 1
    assert "Move it there, or set ROOT_IMAGE_DIR to a folder that holds it. [image_outside_root]" in str(problem)


@pytest.mark.invariant("DATA-020")
def test_a_file_without_records_is_a_problem(tmp_path: Path) -> None:
    (problem,) = survey_file(write(tmp_path / "a.jsonl")).problems
    assert problem.rule == "no_records"


@pytest.mark.invariant("DATA-060")
@pytest.mark.parametrize(
    ("size", "says"),
    [((6592, 32), "more than 200 times the shorter"), ((100, 64), "multiples of 32"), ((32, 32), "4096 to 16777216")],
)
def test_an_image_that_the_processor_would_not_take_is_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: tuple[int, int], says: str
) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    jsonl = write(tmp_path / "train.jsonl", LINE, LINE | {"width": size[0], "height": size[1]})
    for images in ("none", "exists"):
        assert check_data.main([str(jsonl), "--images", images]) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and err.startswith(f"{jsonl}:2: images[0]: a.png is {size[0]}x{size[1]}")
        assert says in err


@pytest.mark.invariant("DATA-062")
def test_a_path_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "j8 [v2] [bold] größe :cat: a long name that is wider than a table of counts may ever be"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    jsonl = write(folder / "records [1].jsonl", LINE)
    assert check_data.main([str(jsonl), "--images", "open"]) == 0
    assert capsys.readouterr().out.startswith(f"{jsonl}\n")


@pytest.mark.invariant("ENC-032")
def test_a_configuration_brings_its_own_limits(
    stage1_kit: Stage1Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths are told with the words of the dry run, for named files and for those of the configuration."""
    from coordexp.entrypoints import train

    objects = [{"desc": f"cat {k}", "bbox_2d": [1, 1, 9, 9 + k]} for k in range(40)]
    Image.new("RGB", (96, 96)).save(tmp_path / "a.png")
    large = LINE | {"width": 96, "height": 96}
    jsonl = write(tmp_path / "many.jsonl", large, large | {"objects": objects}, large | {"objects": []}, "{")
    config = stage1_kit.write("limits", custom={"train_jsonl": str(jsonl), "val_jsonl": None})
    monkeypatch.chdir(tmp_path)
    assert check_data.main(["many.jsonl"]) == 1
    assert "exceed" not in capsys.readouterr().err
    told = {}
    for name, arguments in (("named", ["many.jsonl"]), ("own", [])):
        assert check_data.main([*arguments, "--config", str(config)]) == 1
        told[name] = [line for line in capsys.readouterr().err.splitlines() if "jsonl:" in line]
    assert [line.split(": ")[0] for line in told["named"]] == ["many.jsonl:2", "many.jsonl:4"]
    assert "objects, 9 vision tokens) exceed global_max_length = 512" in told["named"][0]
    assert told["own"] == [f"{tmp_path}/{line}" for line in told["named"]]
    for extra in ([], ["--dry-run"]):
        assert train.main(["--config", str(config), *extra]) == 1
        err = capsys.readouterr().err
        assert all(line in err for line in told["own"]) and "Traceback" not in err
    assert check_data.main(["--config", str(tmp_path / "absent.yaml")]) == 1
    with pytest.raises(SystemExit):
        check_data.main([])


@pytest.mark.invariant("DATA-021")
def test_shapes_are_drawn_cooked_and_checked_by_their_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        make_shapes.main(["--out", f"{tmp_path}/raw", "--seed", "3", "--split", "t=4", "--split", "b=2:crowded"]) == 0
    )
    for split, objects in (("t", 1), ("b", 5)):
        raw, out = tmp_path / "raw" / split, tmp_path / split
        paths = ["--annotations", f"{raw}/annotations.json", "--images", str(raw), "--out", str(out)]
        assert cook.main([*paths, "--max-pixels", "40960"]) == 0
        assert check_data.main([str(out / "records.jsonl"), "--images", "open"]) == 0
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["objects"]["input"] == manifest["objects"]["kept"] >= objects * manifest["records"]["kept"]
    assert capsys.readouterr().err == ""


@pytest.mark.invariant("DATA-021")
@pytest.mark.parametrize(
    ("run", "arguments", "says"),
    [
        (make_shapes.main, ["--out", "{out}", "--seed", "-1"], "make_shapes: training.seed"),
        (make_shapes.main, ["--out", "{out}", "--seed", "1", "--split", "x"], "make_shapes: split 'x'"),
        (
            cook.main,
            ["--annotations", "/absent", "--images", "/", "--out", "{out}", "--max-pixels", "9999"],
            "cook: /absent",
        ),
    ],
    ids=["seed", "split", "annotations"],
)
def test_bad_input_is_one_line_and_exit_code_1(
    run: object, arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([text.format(out=tmp_path / "out") for text in arguments]) == 1  # type: ignore[operator]
    err = capsys.readouterr().err
    assert err.startswith(says) and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
