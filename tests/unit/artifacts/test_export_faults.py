"""Bad input of the export command: one message that says what to do, and nothing left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from coordexp.encode.whole_model import check_whole_model
from tests.plugins.exported import Trained, tell
from tests.plugins.stage2 import EARLY

Fault = Callable[[Path, Path], list[str]]
"""Changes a copy of an adapter folder (first) whose base is a copy too (second); the command's arguments."""


def moved_base(folder: Path, base: Path) -> list[str]:
    base.rename(base.with_name("elsewhere"))
    return [str(folder)]


def other_base(folder: Path, base: Path) -> list[str]:
    tensors = load_file(base / "model.safetensors")
    tensors["model.visual.merger.norm.weight"] += 1
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    return [str(folder)]


def other_tokenizer(folder: Path, base: Path) -> list[str]:
    (folder / "checkpoint.json").unlink()
    path = folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("<|fim_pad|>", "<|fim_bad|>"), encoding="utf-8")
    return [str(folder)]


def other_ids(folder: Path, base: Path) -> list[str]:
    path = folder / "coord_offset.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["ids"] = [index - 1 for index in document["ids"]]
    path.write_text(json.dumps(document), encoding="utf-8")
    return [str(folder)]


def changed_adapter(folder: Path, base: Path) -> list[str]:
    shutil.copy(folder / "coord_offset.safetensors", folder / "adapter_model.safetensors")
    return [str(folder)]


def foreign_adapter(folder: Path, base: Path) -> list[str]:
    (folder / "checkpoint.json").unlink()
    return changed_adapter(folder, base)


def diverged(folder: Path, base: Path) -> list[str]:
    (folder / "checkpoint.json").unlink()
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    return [str(folder)]


def no_weights(folder: Path, base: Path) -> list[str]:
    (folder / "adapter_model.safetensors").unlink()
    return [str(folder)]


def lost_offsets(folder: Path, base: Path) -> list[str]:
    (folder / "coord_offset.safetensors").unlink()
    return [str(folder)]


def taken(folder: Path, base: Path) -> list[str]:
    (folder.parent / "out").mkdir()
    (folder.parent / "out" / "mine").touch()
    return [str(folder)]


def inside(folder: Path, base: Path) -> list[str]:
    return [str(folder), "--out", str(folder / "whole")]


def unfinished(folder: Path, base: Path) -> list[str]:
    run = folder.parent / "run"
    run.mkdir()
    for name in ("checkpoint-2", "checkpoint-10"):
        shutil.copytree(folder, run / name)
    return [str(run)]


def versions(folder: Path, base: Path) -> list[str]:
    (folder.parent / "runs" / "v0-2026").mkdir(parents=True)
    (folder.parent / "runs" / "v0-2026" / "run_manifest.json").touch()
    return [str(folder.parent / "runs")]


def killed(folder: Path, base: Path) -> list[str]:
    folder.rename(folder.with_name(".partial-final"))
    return [str(folder.with_name(".partial-final"))]


def base_for_whole(folder: Path, base: Path) -> list[str]:
    return [str(base), "--model", str(base)]


def nothing(folder: Path, base: Path) -> list[str]:
    (folder.parent / "empty").mkdir()
    return [str(folder.parent / "empty")]


FAULTS: dict[Fault, str] = {
    moved_base: "adapter_config.json: names the model under it {base}, which is no folder here; name the model's",
    other_base: "{base}: its weights are not those of the model that {folder} was trained on",
    other_tokenizer: "{folder}: its tokenizer is not that of the model under it, {base}; name the model",
    other_ids: "coord_offset.json: moves the rows ",
    changed_adapter: "{folder}: adapter_model.safetensors has changed since the checkpoint was saved",
    foreign_adapter: "{folder}: the model ",
    diverged: "{folder}: NaNs detected in the merged weights",
    no_weights: "{folder}: lacks adapter_model.safetensors; copy the folder again",
    lost_offsets: "{folder}: lacks coord_offset.safetensors; copy the folder again",
    taken: "out: holds files already, and a checkpoint is written into a folder of its own; write another path",
    inside: "whole: lies in {folder}, which is exported; write a folder outside of it",
    unfinished: "(it holds no final); name one of its checkpoints: checkpoint-2, checkpoint-10",
    versions: "runs: holds runs; name one of them: v0-2026",
    killed: "is what a save that was killed has left, and not whole",
    base_for_whole: "{base}: is a whole model, which has no base; leave --model out",
    nothing: "empty: holds neither a checkpoint (config.json or adapter_config.json) nor a run (final, checkpoint-*)",
}


@pytest.fixture
def copied(trained: Callable[[str], Trained], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of an adapter folder with offsets, and of the base that it names."""
    folder, base = tmp_path / "copy [1] ü" / "final", tmp_path / "copy [1] ü" / "base"
    shutil.copytree(trained("lora-offsets").final, folder)
    shutil.copytree(EARLY, base)
    for name, key in (("adapter_config.json", "base_model_name_or_path"),):
        document = json.loads((folder / name).read_text(encoding="utf-8"))
        document[key] = str(base)
        (folder / name).write_text(json.dumps(document), encoding="utf-8")
    return folder, base


@pytest.mark.invariant("ART-024")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.usefixtures("own_words_alone")
def test_bad_input_is_one_message_and_leaves_nothing(
    copied: tuple[Path, Path], fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, base = copied
    arguments = fault(folder, base)
    out = folder.parent / "out"
    given = arguments if "--out" in arguments else [*arguments, "--out", str(out)]
    code, told, shown = tell(given, capsys)
    assert code == 1 and told == ""
    line = shown.strip().splitlines()[-1]
    assert line.startswith("export: ") and FAULTS[fault].format(folder=folder, base=base) in line, line
    assert "Traceback" not in shown
    assert (fault is taken) == out.exists() and not list(folder.parent.glob(".partial-out"))


@pytest.mark.invariant("ART-024")
def test_a_base_that_has_moved_is_named(copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder, base = copied
    moved_base(folder, base)
    out = folder.parent / "out"
    assert tell([str(folder), "--out", str(out), "--model", str(base.with_name("elsewhere"))], capsys)[0] == 0
    assert check_whole_model(out).rows == 1408
