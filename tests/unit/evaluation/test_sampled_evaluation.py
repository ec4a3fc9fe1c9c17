"""The tiny trained checkpoint samples answers about drawn images: they differ, and the batch is no part of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coordexp.config import load_config
from coordexp.data.cooking import RECORDS_NAME, cook
from coordexp.data.cooking_types import CookOptions, CookSource
from coordexp.data.shapes import SplitSpec, write_splits
from coordexp.entrypoints.evaluate import main
from coordexp.rollout.seeding import evaluation_seed_base
from coordexp.spec import check

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "configs/stage1/smoke/shapes.yaml"
IMAGES = 5


@pytest.fixture(scope="module")
def jsonl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    write_splits(folder / "raw", [SplitSpec("few", IMAGES)], 31)
    source = CookSource(folder / "raw/few/annotations.json", folder / "raw/few")
    cook(source, folder / "few", CookOptions(65536))
    return folder / "few" / RECORDS_NAME


def evaluated(jsonl: Path, out: Path, samples: int, batch: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Report and prediction lines of a run of the command."""
    given = ["--config", CONFIG, "--checkpoint", ROOT / "fixtures/tiny-qwen3vl", "--jsonl", jsonl, "--out", out]
    given += ["--max-new-tokens", 160, "--batch-size", batch, "--samples", samples, "--temperature", 1.0]
    assert main([str(part) for part in given]) == 0
    report = check("evaluation-report", json.loads((out / "report.json").read_text(encoding="utf-8")))
    lines = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return report, [check("evaluation-prediction", json.loads(line)) for line in lines]


def written(line: dict[str, Any]) -> list[tuple[str, int]]:
    """Text and length of an image's answers, greedy first. Scores may differ in the last digit they are rounded to."""
    return [(answer["text"], answer["response_tokens"]) for answer in (line, *line["samples"])]


@pytest.mark.slow
@pytest.mark.invariant("EVAL-020")
@pytest.mark.invariant("EVAL-022")
@pytest.mark.invariant("ART-005")
def test_sampled_answers_differ_and_do_not_depend_on_the_batch(
    jsonl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, lines = evaluated(jsonl, tmp_path / "together", samples=3, batch=64)
    shown = capsys.readouterr().out
    assert "hf · float32 · batches of 64 · temperature 1, top_p 1, top_k all · up to 160 tokens" in shown
    assert "sample 3" in shown and "objects that no answer finds" in shown

    drawn = [[sample["text"] for sample in line["samples"]] for line in lines]
    assert len(drawn) == IMAGES and all(len(texts) == 3 for texts in drawn)
    # A repeated text is possible, all alike is not.
    assert len({text for texts in drawn for text in texts}) > 2 * IMAGES
    assert any(line["text"] not in texts for line, texts in zip(lines, drawn, strict=True))

    found = report["samples"]
    assert found["count"] == len(found["recall"]) == len(found["union_recall"]) == 3
    assert found["union_recall"] == sorted(found["union_recall"]) and found["union_recall"][0] == found["recall"][0]
    assert found["greedy_recall"] == report["detection"]["recall"]
    seed = load_config(CONFIG).training.seed
    assert report["provenance"]["sampling"]["seed_base"] == evaluation_seed_base(seed)
    tokens = [line["response_tokens"] for line in lines]
    assert report["lengths"]["generated_tokens_mean"] == pytest.approx(sum(tokens) / IMAGES)
    assert 0.7 < report["lengths"]["ratio"] < 1.4

    other, same = evaluated(jsonl, tmp_path / "in_pairs", samples=2, batch=2)
    assert [written(line) for line in same] == [written(line)[:3] for line in lines]
    assert other["samples"]["union_recall"] == found["union_recall"][:2]
