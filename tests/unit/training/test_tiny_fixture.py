"""The committed tiny models: what they are, what their manifests say, and that they can be measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coordexp.artifacts.checkpoint_policy import check_weights_only
from coordexp.artifacts.files import hash_file

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures"
NAMES = ("tiny-qwen3vl", "tiny-qwen3vl-early", "tiny-qwen3vl-level")
LIMIT_BYTES = 16 * 2**20


def manifest_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIXTURES / name / "manifest.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.invariant("TRAIN-013")
@pytest.mark.parametrize("name", NAMES)
def test_a_fixture_is_small_and_is_what_its_manifest_describes(name: str) -> None:
    folder = check_weights_only(FIXTURES / name)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LIMIT_BYTES
    manifest = manifest_of(name)
    assert manifest["weights_sha256"] == hash_file(folder / "model.safetensors")
    assert manifest["commands"][0].startswith("python -m coordexp.entrypoints.")
    for command in manifest["commands"]:
        if "--config" in command:
            assert (FIXTURES.parent / command.split("--config ")[1]).is_file(), command


@pytest.mark.parametrize("name", NAMES)
def test_a_fixture_has_the_whole_architecture_and_todays_vocabulary(name: str) -> None:
    from transformers import Qwen3VLConfig

    from coordexp.encode.processor import load_processor
    from coordexp.encode.vocabulary import build_cut_tokenizer
    from coordexp.forward.tiny import render_shapes_corpus

    config = Qwen3VLConfig.from_pretrained(FIXTURES / name)
    assert config.vision_config.deepstack_visual_indexes == [0, 1]
    assert config.text_config.rope_parameters["mrope_interleaved"] is True
    corpus = render_shapes_corpus()
    fixed, today = load_processor(FIXTURES / name).tokenizer, build_cut_tokenizer(corpus)
    assert [fixed(text)["input_ids"] for text in corpus] == [today(text)["input_ids"] for text in corpus]


@pytest.mark.invariant("TRAIN-013")
def test_the_trained_fixture_finds_shapes_it_has_never_seen(tmp_path: Path) -> None:
    """Forty fresh images; the two hundred of docs/results.md take longer than a test may."""
    from coordexp.config import load_config
    from coordexp.data.cooking import RECORDS_NAME, cook
    from coordexp.data.cooking_types import CookOptions, CookSource
    from coordexp.data.shapes import SplitSpec, write_splits
    from coordexp.evaluation.job import build_job, evaluate_checkpoint
    from coordexp.evaluation.runner import GenerationSettings
    from coordexp.rollout.types import Decoding

    write_splits(tmp_path / "raw", [SplitSpec("fresh", 40)], 424242)
    cook(
        CookSource(tmp_path / "raw/fresh/annotations.json", tmp_path / "raw/fresh"),
        tmp_path / "fresh",
        CookOptions(65536),
    )
    config = load_config(FIXTURES.parent / "configs/stage1/smoke/shapes.yaml")
    job = build_job(
        config,
        FIXTURES / "tiny-qwen3vl",
        GenerationSettings(Decoding(256)),
        jsonl=tmp_path / "fresh" / RECORDS_NAME,
        decode_batch_size=40,
    )
    report = evaluate_checkpoint(job).report
    assert report.parse_rate is not None and report.parse_rate >= 0.9
    assert (report.coco.summary["mAP50"] or 0.0) >= 0.6
