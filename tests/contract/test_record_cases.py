"""Records as people have them: cases of public reports, cooked, checked, dry-run and encoded by the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordexp.config import ConfigError, load_config
from coordexp.data.records import read_records
from coordexp.entrypoints import check_data, cook, train

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

CASES = Path(__file__).parents[2] / "fixtures/cases"


def cooked(name: str, out: Path) -> int:
    case = CASES / name
    paths = ["--annotations", str(case / "annotations.json"), "--images", str(case), "--out", str(out)]
    return cook.main([*paths, "--max-pixels", "16384"])


def run(kit: Stage1Kit, name: str, jsonl: Path, *extra: str) -> int:
    path = kit.root / name / "config.yaml"
    if not path.exists():
        kit.write(name, training={"max_steps": 1}, custom={"train_jsonl": str(jsonl), "val_jsonl": None})
    return train.main(["--config", str(path), *extra])


@pytest.mark.invariant("DATA-022")
def test_a_name_that_is_not_composed_is_cooked_and_trained_on(stage1_kit: Stage1Kit, tmp_path: Path) -> None:
    assert cooked("a1-nfd-name", tmp_path / "out") == 0
    jsonl = tmp_path / "out/records.jsonl"
    assert [item.desc for record in read_records(jsonl) for item in record.objects] == ["caf\u00e9 cup"]
    assert check_data.main([str(jsonl), "--images", "open"]) == 0
    assert run(stage1_kit, "a1", jsonl, "--dry-run") == 0 and run(stage1_kit, "a1", jsonl) == 0


@pytest.mark.invariant("DATA-022")
@pytest.mark.invariant("ENC-031")
def test_a_reserved_name_is_refused_by_each_command(
    stage1_kit: Stage1Kit, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = "holds '<image>', which is not text to the tokenizer or the template"
    assert cooked("a2-reserved-name", tmp_path / "out") == 1
    assert told in capfd.readouterr().err
    assert cooked("a1-nfd-name", tmp_path / "other") == 0
    jsonl = tmp_path / "other/records.jsonl"
    jsonl.write_text(jsonl.read_text(encoding="utf-8").replace("caf\u00e9 cup", "<image> icon"), encoding="utf-8")
    capfd.readouterr()
    for command in (
        lambda: check_data.main([str(jsonl)]),
        lambda: run(stage1_kit, "a2", jsonl, "--dry-run"),
        lambda: run(stage1_kit, "a2", jsonl),
    ):
        assert command() == 1
        assert f"{jsonl}:1: objects[0].desc: desc '<image> icon' {told}" in capfd.readouterr().err


@pytest.mark.invariant("TRAIN-075")
def test_too_many_objects_are_refused_by_the_dry_run_as_by_training(
    stage1_kit: Stage1Kit, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cooked("a3-many-objects", tmp_path / "out") == 0
    jsonl = tmp_path / "out/records.jsonl"
    told = set()
    for extra in (("--dry-run",), ()):
        assert run(stage1_kit, "a3", jsonl, *extra) == 1
        told |= {line for line in capfd.readouterr().err.splitlines() if "records.jsonl:1" in line}
    (line,) = told
    assert "(240 objects, 4 vision tokens) exceed global_max_length = 512; nothing is truncated" in line


@pytest.mark.invariant("DATA-062")
def test_a_folder_with_brackets_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    jsonl = CASES / "j8-brackets [v2]/records.jsonl"
    assert check_data.main([str(jsonl), "--images", "open"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(jsonl)


@pytest.mark.invariant("TRAIN-027")
@pytest.mark.parametrize("key", ["packing_drop_last", "dataloader_drop_last", "save_last_epoch"])
def test_a_key_that_would_do_nothing_is_refused_with_what_to_do(stage1_kit: Stage1Kit, key: str) -> None:
    path = stage1_kit.write(f"k1_{key}", training={key: True})
    with pytest.raises(ConfigError, match=rf"training\.{key}: removed: delete it: "):
        load_config(path)
