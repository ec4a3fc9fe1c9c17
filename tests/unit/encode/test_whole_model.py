"""A checkpoint folder is a whole Qwen3-VL, or is told what it lacks, before a weight is loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from coordexp.encode.checkpoint import CheckpointFolderError
from coordexp.encode.processor import ProcessorError, load_processor
from coordexp.encode.whole_model import check_whole_model
from tests.plugins.checkpoints import change_checkpoint

ROOT = Path(__file__).resolve().parents[3]


def cases() -> list[Any]:
    rows = json.loads((ROOT / "fixtures/encode/checkpoints.json").read_text(encoding="utf-8"))["cases"]
    return [pytest.param(row["input"], row["expect"], id=row["description"].replace(" ", "-")) for row in rows]


@pytest.mark.invariant("ENC-020")
@pytest.mark.parametrize(("change", "words"), cases())
def test_a_folder_is_a_whole_model_or_is_told_what_it_lacks(stage1_kit, tmp_path, change, words):
    folder = change_checkpoint(stage1_kit.checkpoint, tmp_path / "checkpoint", change)
    if words is None:
        model = check_whole_model(folder)
        assert (model.folder, model.rows, model.quantized) == (folder, 1408, False)
        assert model.parameters == 700_608
    else:
        with pytest.raises(CheckpointFolderError, match=re.escape(words)) as caught:
            check_whole_model(folder)
        assert str(caught.value).startswith(str(folder))


@pytest.mark.invariant("ENC-020")
@pytest.mark.parametrize("name", ["tiny-qwen3vl", "tiny-qwen3vl-early"])
def test_the_committed_checkpoints_are_whole(name):
    assert check_whole_model(ROOT / "fixtures" / name).parameters == 2_976_256


@pytest.mark.invariant("ENC-020")
@pytest.mark.parametrize("change", [case.values[0] for case in cases() if case.values[1] is None])
def test_what_passes_for_whole_loads_to_the_same_weights(stage1_kit, tmp_path, change):
    import torch

    folder = change_checkpoint(stage1_kit.checkpoint, tmp_path / "checkpoint", change)
    assert check_whole_model(folder).rows == 1408
    expected, found = loaded(stage1_kit.checkpoint), loaded(folder)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def loaded(folder: Path) -> dict[str, Any]:
    from transformers import Qwen3VLForConditionalGeneration

    return dict(Qwen3VLForConditionalGeneration.from_pretrained(folder, local_files_only=True).named_parameters())


@pytest.mark.invariant("ENC-020")
def test_transformers_would_fill_what_is_missing_with_random_numbers(stage1_kit, tmp_path):
    import torch

    name = "model.language_model.layers.1.mlp.up_proj.weight"
    folder = change_checkpoint(stage1_kit.checkpoint, tmp_path / "checkpoint", {"drop": [name]})
    assert not torch.equal(loaded(stage1_kit.checkpoint)[name], loaded(folder)[name])
    with pytest.raises(CheckpointFolderError, match="random numbers"):
        check_whole_model(folder)


@pytest.mark.invariant("ENC-020")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"remove": ["tokenizer.json"]}, "holds no tokenizer.json or vocab.json"),
        ({"remove": ["tokenizer_config.json"]}, "holds no tokenizer_config.json"),
        ({"remove": ["processor_config.json"]}, "holds no processor_config.json or preprocessor_config.json"),
        ({"set": {"tokenizer.json": {"model": {}}}}, "its processor cannot be loaded (Exception: "),
        ({"set": {"tokenizer.json": {"model": {}, "added_tokens": None}}}, "its processor cannot be loaded ("),
    ],
    ids=["tokenizer", "tokenizer-config", "processor-config", "no-model", "no-added-tokens"],
)
def test_a_processor_that_is_not_whole_is_named(stage1_kit, tmp_path, change, words):
    folder = change_checkpoint(stage1_kit.checkpoint, tmp_path / "checkpoint", change)
    with pytest.raises(ProcessorError, match=re.escape(f"{folder}: {words}")):
        load_processor(folder)


@pytest.mark.invariant("ENC-020")
def test_a_quantized_model_is_known(stage1_kit, tmp_path):
    change = {"set": {"config.json": {"quantization_config": {"quant_method": "fp8"}}}}
    assert check_whole_model(change_checkpoint(stage1_kit.checkpoint, tmp_path / "checkpoint", change)).quantized
