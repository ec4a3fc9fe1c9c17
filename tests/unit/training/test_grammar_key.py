"""`rollout_matching.decoding.grammar` and `evaluate --grammar`: off unless asked for, and one thing in both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from coordexp.config import ConfigError, load_config
from coordexp.coordjson import render_expression
from coordexp.entrypoints.evaluate import main
from coordexp.evaluation.job import build_job
from coordexp.evaluation.runner import GenerationSettings
from coordexp.evaluation.sampling import SampleSettings
from coordexp.evaluation.summary import render_decoding
from coordexp.forward.tiny import SMALLEST, build_tiny_model
from coordexp.rollout.grammar import build_expression
from coordexp.rollout.types import BackendSettings, Decoding
from coordexp.rollout.vllm_client import render_request_config
from coordexp.spec import check
from coordexp.training.stage2 import build_decoding

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[3]
STAGE1 = ROOT / "configs/stage1/smoke/shapes.yaml"
STAGE2 = ROOT / "configs/stage2_rollout_aligned/smoke/hf.yaml"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """A stage-2 config file whose grammar is written so."""

    def written(value: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(f"extends: {STAGE2}\nrollout_matching:\n  decoding:\n    grammar: {value}\n", encoding="utf-8")
        return path

    return written


@pytest.mark.invariant("ROLL-055")
@pytest.mark.parametrize(
    ("value", "on"), [("on", True), ("off", False), ("true", True), ("false", False), ("yes", True)]
)
def test_the_key_may_be_written_in_yaml_s_ways(write: Callable[[str], Path], value: str, on: bool) -> None:
    config = load_config(write(value))
    assert config.rollout_matching is not None and config.rollout_matching.decoding.grammar is on
    decoding = build_decoding(config)
    assert decoding.grammar == (render_expression("desc_first") if on else None)
    assert ("structured_outputs_regex" in render_request_config(decoding)) is on


@pytest.mark.invariant("ROLL-055")
@pytest.mark.parametrize("value", ['"on"', "1", "coordjson", "[]"])
def test_anything_else_is_refused_with_its_place(write: Callable[[str], Path], value: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml:4.*rollout_matching\.decoding\.grammar"):
        load_config(write(value))


@pytest.mark.invariant("ROLL-055")
def test_it_is_off_unless_asked_for() -> None:
    decoding = build_decoding(load_config(STAGE2))
    assert decoding.grammar is None and decoding == Decoding(decoding.max_new_tokens)
    assert "structured_outputs_regex" not in render_request_config(decoding)
    backend = BackendSettings("hf", "float32", 4)
    assert render_decoding(backend, decoding).endswith(f" · greedy · up to {decoding.max_new_tokens} tokens")


@pytest.mark.invariant("ROLL-055")
def test_evaluate_asks_for_what_a_run_asks_for(write: Callable[[str], Path]) -> None:
    config = load_config(write("on"))
    asked = build_decoding(config)
    free = GenerationSettings(
        Decoding(asked.max_new_tokens), samples=SampleSettings(2, Decoding(asked.max_new_tokens, temperature=0.7))
    )
    assert free.constrained(build_expression(config)).decoding == asked
    both = free.constrained(build_expression(config))
    assert both.samples is not None and both.samples.decoding.grammar == asked.grammar
    assert both.samples.decoding.temperature == 0.7 and both.samples.count == 2
    job = build_job(config, ROOT / "fixtures/tiny-qwen3vl", both, jsonl=ROOT / "fixtures/README.md")
    assert job.generation.decoding == asked and job.generation.samples is not None
    assert job.generation.samples.decoding.grammar == asked.grammar and job.generation.samples.decoding.seed_base


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, cut_processor: Any) -> list[str]:
    """Arguments of the command: an untrained checkpoint and two noise images."""
    folder = tmp_path_factory.mktemp("evaluated")
    build_tiny_model(cut_processor.tokenizer, SMALLEST, seed=1, tied=False).save_pretrained(folder / "model")
    cut_processor.save_pretrained(folder / "model")
    noise, lines = np.random.default_rng(0), []
    for number in range(2):
        Image.fromarray(noise.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        box = [f"<|coord_{k}|>" for k in (100, 100, 500, 500 + number)]
        found = {"desc": "red circle", "bbox_2d": box}
        lines.append({"images": [f"{number}.png"], "width": 96, "height": 64, "objects": [found]})
    (folder / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = {"--config": STAGE1, "--checkpoint": folder / "model", "--jsonl": folder / "val.jsonl"}
    told |= {"--max-new-tokens": "12", "--samples": "1", "--temperature": "1"}
    return [str(part) for pair in told.items() for part in pair]


@pytest.mark.invariant("ROLL-055")
def test_a_report_says_whether_answers_were_written_by_the_grammar(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {}
    for name, more in {"free": [], "grammar": ["--grammar"]}.items():
        assert main([*given, *more, "--out", str(tmp_path / name)]) == 0
        shown = capsys.readouterr().out
        assert shown.count("tokens · by the grammar") == (2 if more else 0), "greedy and sampled answers"
        report = check("evaluation-report", json.loads((tmp_path / name / "report.json").read_text()))
        told = report["provenance"]
        assert (told["decoding"]["grammar"], told["sampling"]["grammar"]) == (bool(more), bool(more))
        lines = [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
        texts[name] = [text["text"] for line in lines for text in (line, *line["samples"])]
    opening = '{"objects": ['
    assert all(text[: len(opening)] == opening[: len(text)] for text in texts["grammar"])
    assert not any(text.startswith("{") for text in texts["free"])
