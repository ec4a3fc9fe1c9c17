"""What a run leaves behind: whole checkpoints, complete for their readers, whatever ends it while it saves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from coordexp.artifacts.checkpoint_policy import check_weights_only
from coordexp.config import ConfigError, load_config
from coordexp.encode.checkpoint import CheckpointFolderError
from coordexp.encode.checkpoint_record import check_recorded_vocabulary, check_recorded_weights
from coordexp.encode.processor import load_processor
from coordexp.encode.whole_model import check_whole_model
from coordexp.training.saving import keep_checkpoints, numbered_checkpoints
from tests.plugins.stage2 import EARLY, pipeline

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit
    from tests.plugins.stage2 import Stage2Kit

ROOT = Path(__file__).resolve().parents[3]
COMPLETE = {
    "README.md", "args.json", "checkpoint.json", "chat_template.jinja", "generation_config.json",
    "processor_config.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip
WHOLE = COMPLETE | {"config.json", "model.safetensors"}
ADAPTER = COMPLETE | {"adapter_config.json", "adapter_model.safetensors", "additional_config.json"}
OFFSETS = {"coord_offset.json", "coord_offset.safetensors"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.invariant("TRAIN-081")
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL", "full"])
def test_a_run_that_ends_while_it_saves_leaves_the_checkpoint_before_it_whole(stage1_kit: Stage1Kit, how: str) -> None:
    path = stage1_kit.write(f"killed_{how}", training={"save_strategy": "steps", "save_steps": 1})
    done = subprocess.run(
        [sys.executable, "-m", "tests.plugins.killed_saves", how, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    run = path.parent / "run"
    assert done.returncode == (1 if how == "full" else -getattr(signal, how)), done.stderr[-2000:]
    assert [folder.name for folder in numbered_checkpoints(run)] == ["checkpoint-1"] and not (run / "final").exists()
    assert names(run / "checkpoint-1") == WHOLE
    assert check_whole_model(check_recorded_weights(check_weights_only(run / "checkpoint-1"))).rows == 1408
    left = sorted(name for name in names(run) if name.startswith("."))
    assert left == ([] if how in ("SIGINT", "full") else [".partial-checkpoint-2"])
    if how == "full":
        assert "Traceback" not in done.stderr
        (line,) = [line for line in done.stderr.splitlines() if "could not be written" in line]
        assert line.startswith(f"error: step 2: {run}/checkpoint-2: could not") and "File too large" in line
    if left:
        check_next_starts(path, run)


def check_next_starts(path: Path, run: Path) -> None:
    """What the kill has left is named by each way to start again, and read by none."""
    from coordexp.training.preflight import check_run, partial_notes

    told = f"{run / '.partial-checkpoint-2'} is what a save that was killed has left"
    with pytest.raises(ConfigError) as refused:
        check_run(load_config(path))
    assert told in str(refused.value) and "holds a run or a checkpoint already" in str(refused.value)
    (note,) = partial_notes(run)
    assert note.startswith(told) and partial_notes(run.parent) == (note,), "versions of a run lie one below"
    with pytest.raises(CheckpointFolderError, match="and not whole; delete it"):
        check_whole_model(run / ".partial-checkpoint-2")


@pytest.mark.invariant("TRAIN-081")
def test_a_dry_run_names_what_a_killed_version_of_the_run_has_left(stage1_kit: Stage1Kit) -> None:
    from coordexp.training.dry_run import dry_run

    path = stage1_kit.write("versions", training={"add_version": True})
    left = path.parent / "run" / "v0-20260101-000000" / ".partial-final"
    left.mkdir(parents=True)
    assert any(str(left) in line and line.startswith("warning: ") for line in dry_run(load_config(path)))


KINDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "full": ({}, WHOLE),
    "full-offsets": ({"custom": {"coord_offset": {"enabled": True, "embed_lr": 0.02}}}, WHOLE),
    "full-own-head": ({"custom": {"coord_offset": {"enabled": True, "tie_head": False}}}, WHOLE),
    "lora": ({"tuner": {"tuner_type": "lora", "lora_rank": 4}}, ADAPTER),
    "dora-offsets": (
        {
            "tuner": {"tuner_type": "lora", "use_dora": True, "lora_rank": 4},
            "custom": {"coord_offset": {"enabled": True, "tie_head": False}},
        },
        ADAPTER | OFFSETS,
    ),
}


@pytest.fixture(scope="module", params=list(KINDS))
def saved(request: pytest.FixtureRequest, stage1_kit: Stage1Kit) -> tuple[Path, set[str]]:
    """A run's folder and what each of its checkpoints must hold."""
    from coordexp.training.stage1 import run_stage1

    sections, files = KINDS[request.param]
    training = {"save_strategy": "steps", "save_steps": 1}
    path = stage1_kit.write(f"saved_{request.param}", **{**sections, "training": training})
    return run_stage1(load_config(path)).checkpoint.parent, files


@pytest.mark.invariant("ART-022")
def test_every_checkpoint_of_stage_1_is_complete_and_says_what_it_is(
    saved: tuple[Path, set[str]], stage1_kit: Stage1Kit
) -> None:
    run, files = saved
    for number, folder in enumerate((run / "checkpoint-1", run / "checkpoint-2", run / "final")):
        assert names(folder) == files
        record = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        assert record["step"] == min(number + 1, 2) and record["torch_dtype"] == "float32"
        assert set(record["weights"]) == {name for name in files if name.endswith(".safetensors")}
        assert record["vocabulary"]["coords"] == list(stage1_kit.coord_range())
        adapter = "adapter_config.json" in files
        assert (record["kind"], record["base"] is not None) == (("adapter", True) if adapter else ("whole", False))
        if adapter:
            base = json.loads((folder / "args.json").read_text(encoding="utf-8"))["model"]
            assert record["base"]["path"] == base == str(stage1_kit.checkpoint)
        assert check_recorded_weights(folder) == folder
        check_recorded_vocabulary(folder, load_processor(folder).tokenizer)
    assert names(run) >= {"checkpoint-1", "checkpoint-2", "final", "last-checkpoint"}
    assert not [name for name in names(run) if name.startswith(".")]


@pytest.mark.invariant("ART-023")
def test_a_readme_says_how_each_reader_opens_the_folder(saved: tuple[Path, set[str]]) -> None:
    run, files = saved
    text = (run / "final" / "README.md").read_text(encoding="utf-8")
    for line in ("transformers", "vLLM", "ms-swift") if "config.json" in files else ("peft", "vLLM", "ms-swift"):
        assert f"| {line} |" in text
    export = f"python -m coordexp.entrypoints.export {run / 'final'} --out {run / 'final'}-whole"
    assert (export in text) == ("adapter_config.json" in files)
    assert ("peft alone does not know the coord offsets" in text) == ("coord_offset.json" in files)


@pytest.mark.invariant("ART-022")
@pytest.mark.parametrize("variant", ["stage2_two_channel", "stage2_rollout_aligned"])
def test_every_checkpoint_of_stage_2_is_complete(stage2_kit: Stage2Kit, variant: str) -> None:
    from coordexp.entrypoints.train import TRAINERS

    two: dict[str, Any] = {
        "stage2_ab": {"schedule": {"b_ratio": 0.5}, "pipeline": pipeline()},
        "rollout_matching": {"max_new_tokens": 64, "decode_batch_size": 4, "pipeline": None},
    }
    config = load_config(
        stage2_kit.write(
            f"saved_{variant}",
            model={"model": str(EARLY)},
            training={"save_strategy": "steps", "save_steps": 1, "max_steps": 2},
            custom={"trainer_variant": variant, "coord_offset": {"enabled": True}},
            **(two if variant == "stage2_two_channel" else {}),
        )
    )
    run = TRAINERS[variant](config).checkpoint.parent
    for folder in (*numbered_checkpoints(run), run / "final"):
        assert names(check_recorded_weights(check_weights_only(folder))) == WHOLE
    assert len(numbered_checkpoints(run)) == 2


@pytest.mark.invariant("ART-021")
def test_weights_that_do_not_read_back_end_the_run(stage1_kit: Stage1Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedModel

    from coordexp.training.errors import TrainingError
    from coordexp.training.stage1 import run_stage1

    save = PreTrainedModel.save_pretrained

    def save_with_a_flipped_bit(self: Any, folder: Any, *args: Any, **kwargs: Any) -> None:
        save(self, folder, *args, **kwargs)
        tensors = load_file(Path(folder) / "model.safetensors")
        name = "model.visual.merger.norm.weight"
        tensors[name].view(torch.int32)[3] ^= 1
        save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_with_a_flipped_bit)
    path = stage1_kit.write("flipped")
    with pytest.raises(TrainingError, match=r"model\.visual\.merger\.norm\.weight reads back otherwise"):
        run_stage1(load_config(path))
    assert not (path.parent / "run" / "final").exists()


def change_tokenizer(folder: Path) -> None:
    """The coord tokens trade places with a token before them."""
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    tokens = {token["content"]: token for token in document["added_tokens"]}
    one, other = tokens["<|coord_*|>"], tokens["<think>"]
    one["content"], other["content"] = other["content"], one["content"]
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.invariant("TRAIN-082")
@pytest.mark.parametrize("fault", ["weights", "tokenizer", "record"])
@pytest.mark.usefixtures("own_words_alone")
def test_a_start_from_a_changed_checkpoint_says_what_has_changed(
    stage1_kit: Stage1Kit,
    tmp_path: Path,
    fault: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import shutil

    from coordexp.entrypoints.evaluate import main as evaluate
    from coordexp.entrypoints.train import main as train

    # A process's handler would hold the stream of this test when the next one begins.
    monkeypatch.setattr("coordexp.entrypoints.train.log_progress", lambda: None)
    path = stage1_kit.write(f"changed_{fault}")
    assert train(["--config", str(path)]) == 0
    folder = tmp_path / "copied"
    shutil.copytree(path.parent / "run" / "final", folder)
    if fault == "weights":
        shutil.copy(stage1_kit.checkpoint / "model.safetensors", folder)
        words = f"{folder}: model.safetensors has changed since the checkpoint was saved"
    elif fault == "tokenizer":
        change_tokenizer(folder)
        words = f"{folder}: its tokenizer is another than the one that the weights were trained with"
    else:
        (folder / "checkpoint.json").write_text("{}")
        words = f"{folder / 'checkpoint.json'}: "
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["model"] = {"model": str(folder)}
    document["training"]["output_dir"] = str(tmp_path / "run")
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(document), encoding="utf-8")
    capsys.readouterr()
    for command in (
        lambda: train(["--config", str(again), "--dry-run"]),
        lambda: train(["--config", str(again)]),
        lambda: evaluate(["--config", str(path), "--checkpoint", str(folder), "--limit", "1"]),
    ):
        assert command() == 1
        told = capsys.readouterr().err
        assert words in told and "Traceback" not in told
    assert not (tmp_path / "run").exists() or not names(tmp_path / "run")


@pytest.mark.invariant("TRAIN-080")
def test_links_lead_to_the_last_and_the_best_and_the_oldest_others_go(tmp_path: Path) -> None:
    state = SimpleNamespace(best_global_step=None, best_model_checkpoint=None)
    best_at = {1: None, 2: 2, 3: 2, 9: 2, 10: 2, 11: 11}
    kept = {
        1: {"checkpoint-1"}, 2: {"checkpoint-1", "checkpoint-2"}, 3: {"checkpoint-2", "checkpoint-3"},
        9: {"checkpoint-2", "checkpoint-9"}, 10: {"checkpoint-2", "checkpoint-10"},
        11: {"checkpoint-10", "checkpoint-11"},
    }  # fmt: skip
    (tmp_path / "checkpoint-x").mkdir()
    for step, best in best_at.items():
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "weights").touch()
        state.best_global_step = best
        keep_checkpoints(tmp_path, state, 2)  # type: ignore[arg-type]
        links = {"last-checkpoint"} | ({"best-checkpoint"} if best else set())
        assert names(tmp_path) == kept[step] | links | {"checkpoint-x"}
        assert (tmp_path / "last-checkpoint").resolve().name == f"checkpoint-{step}"
        if best:
            assert (tmp_path / "best-checkpoint").resolve().name == f"checkpoint-{best}" == kept_best(state)


def kept_best(state: Any) -> str:
    return Path(state.best_model_checkpoint).name


@pytest.mark.invariant("TRAIN-080")
def test_without_a_limit_all_stay(tmp_path: Path) -> None:
    state = SimpleNamespace(best_global_step=None, best_model_checkpoint=None)
    for step in (1, 2, 3):
        (tmp_path / f"checkpoint-{step}").mkdir()
        keep_checkpoints(tmp_path, state, None)  # type: ignore[arg-type]
    assert len(numbered_checkpoints(tmp_path)) == 3
