"""A checkpoint folder that would run code when it is loaded is refused, by training and by evaluation."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from coordexp.encode.checkpoint import CONFIG_FILES, OTHER_JSON_FILES, CheckpointFolderError, check_checkpoint_folder
from coordexp.encode.processor import load_processor

pytestmark = pytest.mark.invariant("ENC-018")

FIXTURE = Path(__file__).resolve().parents[3] / "fixtures" / "tiny-qwen3vl-early"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURE, tmp_path / "checkpoint"))


def name_code(folder: Path, file: str) -> None:
    content = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    (folder / file).write_text(json.dumps({**content, "auto_map": {"AutoModel": "modeling_own.Own"}}))


def test_the_committed_checkpoint_is_data_only(folder: Path) -> None:
    assert check_checkpoint_folder(folder) == folder


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_a_config_that_names_code_is_refused(folder: Path, file: str) -> None:
    name_code(folder, file)
    with pytest.raises(CheckpointFolderError, match=rf"{file}: auto_map names code that loading would run; delete"):
        check_checkpoint_folder(folder)


def test_python_files_are_refused(folder: Path) -> None:
    (folder / "modeling_own.py").write_text("")
    with pytest.raises(CheckpointFolderError, match=r"holds code \(modeling_own.py\)"):
        check_checkpoint_folder(folder)


def test_pickled_weights_alone_are_refused(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert check_checkpoint_folder(folder) == folder
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointFolderError, match=r"pickled weights \(pytorch_model.bin\) and no \*.safetensors"):
        check_checkpoint_folder(folder)


@pytest.mark.invariant("ENC-020")
@pytest.mark.parametrize("name", [*CONFIG_FILES, "tokenizer.json", *OTHER_JSON_FILES])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[]", "holds no JSON object; copy or"),
        (b"", "is cut short or no JSON (0 bytes; "),
        (b'{"a":{', "is cut short or no JSON (6 bytes; "),
        (b"\x1f\x8b\x08", "is cut short or no JSON (3 bytes; "),
    ],
    ids=["list", "empty", "cut", "gzip"],
)
def test_a_broken_file_is_named_with_what_to_do(folder: Path, name: str, content: bytes, words: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointFolderError, match=re.escape(f"{folder / name}: {words}")) as caught:
        check_checkpoint_folder(folder)
    assert str(caught.value).endswith("; copy or download it again")


@pytest.mark.invariant("ENC-020")
def test_a_vocabulary_counts_only_where_it_is_the_tokenizer(folder: Path) -> None:
    (folder / "vocab.json").write_text("{")
    assert check_checkpoint_folder(folder) == folder
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointFolderError, match=r"vocab.json: is cut short or no JSON"):
        check_checkpoint_folder(folder)


def test_a_key_that_is_written_twice_is_named(folder: Path) -> None:
    (folder / "config.json").write_text('{"a": 1, "a": 2}')
    with pytest.raises(CheckpointFolderError, match=r"config.json: duplicate key 'a'$"):
        check_checkpoint_folder(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFolderError, match="no such checkpoint folder"):
        check_checkpoint_folder(tmp_path / "none")


def test_training_asks_before_it_loads(folder: Path) -> None:
    (folder / "modeling_own.py").write_text("")
    with pytest.raises(CheckpointFolderError):
        load_processor(folder)


def test_evaluation_asks_before_it_loads(folder: Path, tmp_path: Path) -> None:
    from coordexp.encode.settings import EncodeSettings
    from coordexp.evaluation.job import EvaluationJob, evaluate_checkpoint
    from coordexp.evaluation.runner import GenerationSettings
    from coordexp.rollout.types import Decoding

    (folder / "modeling_own.py").write_text("")
    records = tmp_path / "records.jsonl"
    records.write_text('{"images": ["a.png"], "width": 32, "height": 32, "objects": []}\n')
    job = EvaluationJob(folder, records, EncodeSettings(), GenerationSettings(Decoding(8), "constant"))
    with pytest.raises(CheckpointFolderError):
        evaluate_checkpoint(job)
