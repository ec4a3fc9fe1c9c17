"""A start from an adapter folder, or with coord ids that are not those of the checkpoint: one message that says what
to do, wherever it begins.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from coordexp.config import ConfigError
from coordexp.rollout.serve import refusal
from coordexp.training.stage2_launch import Machine, build_stage2_launch

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

ROOT = Path(__file__).resolve().parents[3]
CPU = Machine(gpu_driver=False, gpu_count=0)


@pytest.fixture(params=["adapter_config.json", "coord_offset.json"])
def adapter(request: pytest.FixtureRequest, stage1_kit: Stage1Kit, tmp_path: Path) -> tuple[Path, str]:
    """A folder with an adapter or offsets, complete but for a whole model's weights, and what is said of it."""
    folder = tmp_path / "run [1]" / "final"
    shutil.copytree(stage1_kit.checkpoint, folder, ignore=shutil.ignore_patterns("config.json", "*.safetensors"))
    (folder / request.param).write_text("{}")
    command = f"python -m coordexp.entrypoints.export '{folder}' --out '{folder}-whole'"
    told = f"{folder}: holds an adapter ({request.param}), not a whole model; make one of it, and name that: {command}"
    return folder, told


@pytest.mark.invariant("TRAIN-083")
@pytest.mark.usefixtures("own_words_alone")
def test_training_and_its_dry_run_name_the_command(
    adapter: tuple[Path, str],
    stage1_kit: Stage1Kit,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from coordexp.entrypoints.train import main

    monkeypatch.setattr("coordexp.entrypoints.train.log_progress", lambda: None)

    folder, told = adapter
    path = stage1_kit.write(f"from_{folder.parts[-3]}", model={"model": str(folder)})
    for argv in (["--dry-run"], []):
        assert main(["--config", str(path), *argv]) == 1
        shown = capsys.readouterr().err
        assert f"model.model: {told}" in shown and "Traceback" not in shown


@pytest.mark.invariant("TRAIN-083")
def test_the_launcher_of_stage_2_and_the_server_name_the_command(
    adapter: tuple[Path, str], launch_config: Callable[..., Path]
) -> None:
    folder, told = adapter
    config = launch_config(model={"model": str(folder)})
    with pytest.raises(ConfigError) as refused:
        build_stage2_launch({"config": str(config)}, CPU)
    assert f"model.model: {told}" in str(refused.value)
    done = subprocess.run(
        [sys.executable, "-m", "coordexp.rollout.serve", "--port", "1", "--model", str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stderr == f"rollout server: {told}\n"


@pytest.mark.invariant("TRAIN-083")
def test_a_whole_folder_is_served_and_one_that_a_kill_has_left_is_not(stage1_kit: Stage1Kit, tmp_path: Path) -> None:
    assert refusal(["--model", str(stage1_kit.checkpoint), "--port", "1"]) is None
    assert refusal(["--port", "1"]) is None
    left = tmp_path / ".partial-final"
    shutil.copytree(stage1_kit.checkpoint, left)
    assert "is what a save that was killed has left" in str(refusal(["--model", str(left)]))


@pytest.mark.invariant("TRAIN-083")
def test_evaluation_asks_for_the_coord_ids_that_its_configuration_names(
    stage1_kit: Stage1Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from coordexp.entrypoints.evaluate import main

    first, last = stage1_kit.coord_range()
    path = stage1_kit.write("other_ids")
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = []
    for shift in (0, 1):
        ids = {"start": first + shift, "end": last + shift}
        document["custom"]["coord_offset"] = {"enabled": True, "ids": ids}
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        given = ["--config", str(path), "--checkpoint", str(stage1_kit.checkpoint)]
        found.append(main([*given, "--limit", "1", "--max-new-tokens", "2"]))
    assert found == [0, 1]
    words = f"evaluate: {stage1_kit.checkpoint}: its tokenizer's coord tokens are {first}..{last}, and the config"
    assert words in capsys.readouterr().err


@pytest.mark.invariant("TRAIN-083")
def test_evaluation_refuses_a_tokenizer_with_more_tokens_than_the_model_has_rows(
    stage1_kit: Stage1Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    from coordexp.entrypoints.evaluate import main

    _, last = stage1_kit.coord_range()
    folder = tmp_path / "short"
    shutil.copytree(stage1_kit.checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    name = "model.language_model.embed_tokens.weight"
    tensors[name] = tensors[name][:last].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["vocab_size"] = last
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    path = stage1_kit.write("short_rows")
    assert main(["--config", str(path), "--checkpoint", str(folder), "--limit", "1"]) == 1
    words = f"{folder}: its tokenizer's coord tokens end at {last}, and the model has {last} rows; evaluate"
    assert words in capsys.readouterr().err
