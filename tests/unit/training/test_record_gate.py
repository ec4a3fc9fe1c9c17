"""The gate of records before weights are loaded: dry run and training say the same, of every record that is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordexp.artifacts.run_manifest import read_run_manifest
from coordexp.config import load_config
from coordexp.data.errors import SHOWN, RecordError
from coordexp.entrypoints import evaluate
from coordexp.entrypoints.train import main
from coordexp.training.build import build_foundation

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit


def changed(kit: Stage1Kit, name: str, change: dict[int, dict[str, object]], times: int = 1) -> Path:
    """The kit's training records with the keys of some lines (from 0) replaced."""
    lines = [json.loads(line) for line in kit.train.read_text(encoding="utf-8").splitlines()] * times
    for index, keys in change.items():
        lines[index] |= keys
    path = kit.train.with_name(name)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def objects(count: int, desc: str = "cat") -> list[dict[str, object]]:
    return [{"desc": desc, "bbox_2d": [f"<|coord_{k}|>" for k in (1, 2, 30, 40 + index)]} for index in range(count)]


@pytest.mark.invariant("TRAIN-075")
def test_all_that_is_wrong_is_told_at_once_before_weights_are_loaded(
    stage1_kit: Stage1Kit, capfd: pytest.CaptureFixture[str]
) -> None:
    change: dict[int, dict[str, object]] = {
        1: {"objects": objects(60)},
        3: {"width": 6592, "height": 32},
        5: {"objects": objects(1, "<image> icon")},
        7: {"objects": objects(1, "cafe\u0301")},
        9: {"images": ["images/lost.png"]},
    }
    jsonl = changed(stage1_kit, "faulty.jsonl", change)
    path = stage1_kit.write("faulty", custom={"train_jsonl": str(jsonl)})
    told = []
    for extra in (("--dry-run",), ()):
        assert main(["--config", str(path), *extra]) == 1
        err = capfd.readouterr().err
        assert "Traceback" not in err and "Loading weights" not in err
        told.append([line.removeprefix("error: ") for line in err.splitlines() if "faulty.jsonl:" in line])
    assert told[0] == told[1] and not (path.parent / "run").exists()
    assert sorted(int(line.split(": ")[0].rpartition(":")[2]) for line in told[0]) == [2, 4, 6, 8, 10]


@pytest.mark.invariant("TRAIN-075")
def test_a_file_that_is_wrong_throughout_does_not_fill_the_screen(stage1_kit: Stage1Kit) -> None:
    jsonl = changed(stage1_kit, "throughout.jsonl", {index: {"objects": objects(60)} for index in range(28)}, times=2)
    path = stage1_kit.write("throughout", custom={"train_jsonl": str(jsonl), "val_jsonl": None})
    with pytest.raises(RecordError) as refused:
        build_foundation(load_config(path))
    assert len(refused.value.problems) == 28
    lines = str(refused.value).splitlines()
    assert len(lines) == SHOWN + 1 and lines[-1].startswith("… and 8 more: 28 problems in 28 records; ")


@pytest.mark.invariant("TRAIN-075")
def test_records_that_the_run_does_not_draw_do_not_stop_it_for_a_limit(stage1_kit: Stage1Kit) -> None:
    custom: dict[str, object] = {"val_jsonl": None, "train_sample_limit": 3}
    whole = stage1_kit.write("drawn_within_a_limit", custom=custom | {"train_jsonl": str(stage1_kit.train)})
    used = {
        int(source.rpartition(":")[2])
        for source in build_foundation(load_config(whole)).samples["train"].records.sample_ids
    }
    unused = next(line for line in range(1, 15) if line not in used)
    jsonl = changed(stage1_kit, "unused.jsonl", {unused - 1: {"objects": objects(60)}})
    found = build_foundation(load_config(stage1_kit.write("unused", custom=custom | {"train_jsonl": str(jsonl)})))
    assert len(found.samples["train"].records) == 3
    jsonl = changed(stage1_kit, "used.jsonl", {min(used) - 1: {"objects": objects(60)}})
    with pytest.raises(RecordError, match=rf"used\.jsonl:{min(used)}: .* exceed global_max_length = 512"):
        build_foundation(load_config(stage1_kit.write("used", custom=custom | {"train_jsonl": str(jsonl)})))


@pytest.mark.invariant("ENC-031")
@pytest.mark.invariant("DATA-060")
def test_an_evaluation_refuses_images_in_the_same_words_before_it_loads_a_model(
    stage1_kit: Stage1Kit, capfd: pytest.CaptureFixture[str]
) -> None:
    jsonl = changed(stage1_kit, "long.jsonl", {2: {"width": 6592, "height": 32}, 4: {"width": 100}})
    path = stage1_kit.write("long", custom={"train_jsonl": str(jsonl), "val_jsonl": None})
    asked = ["--config", str(path), "--checkpoint", str(stage1_kit.checkpoint), "--jsonl", str(jsonl)]
    told = []
    for command, arguments in ((evaluate.main, asked), (main, ["--config", str(path), "--dry-run"])):
        assert command(arguments) == 1
        err = capfd.readouterr().err
        assert "Traceback" not in err and "Loading weights" not in err
        told.append([line[line.index("/") :] for line in err.splitlines() if "long.jsonl:" in line])
    assert told[0] == told[1] and len(told[0]) == 2 and "long.jsonl:3: images[0]: " in told[0][0]


@pytest.mark.invariant("TRAIN-076")
def test_images_of_training_and_validation_are_told_and_recorded(
    stage1_kit: Stage1Kit, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stage1_kit.root / "leaked"
    shutil.copytree(stage1_kit.val.parent, folder)
    source = json.loads(stage1_kit.train.read_text(encoding="utf-8").splitlines()[4])
    name = f"images/copied{Path(source['images'][0]).suffix}"
    shutil.copy(stage1_kit.train.parent / source["images"][0], folder / name)
    val = folder / "leaked.jsonl"
    val.write_text(stage1_kit.val.read_text(encoding="utf-8") + json.dumps(source | {"images": [name]}) + "\n")
    path = stage1_kit.write("leaked_run", training={"max_steps": 1}, custom={"val_jsonl": str(val)})
    assert main(["--config", str(path), "--dry-run"]) == 0
    told = f"1 of 4 records of val have an image of train, by content ({val}:4 = {stage1_kit.train}:5)"
    assert f"warning: {told}" in capfd.readouterr().err
    assert main(["--config", str(path)]) == 0
    assert told in capfd.readouterr().err
    pair = {"train": f"{stage1_kit.train}:5", "val": f"{val}:4"}
    assert read_run_manifest(path.parent / "run")["shared_images"] == {"count": 1, "total": 4, "examples": [pair]}
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert build_foundation(load_config(path)).shared is None, "the first rank alone reads files"
