"""From a checkpoint folder to report, predictions and gallery, through the command line's own main."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coordexp.artifacts.evaluation_files import EvaluatedFiles, write_evaluation
from coordexp.artifacts.files import hash_weights
from coordexp.coordjson import render_answer
from coordexp.coords.types import CoordObject
from coordexp.data.records import read_records
from coordexp.encode.checkpoint import CheckpointFolderError
from coordexp.encode.whole_model import check_whole_model
from coordexp.entrypoints.evaluate import main
from coordexp.evaluation.detections import build_answer_parser, build_truth
from coordexp.evaluation.runner import Evaluation, GenerationSettings, Scoring, score_outputs
from coordexp.forward.tiny import SMALLEST, build_tiny_model
from coordexp.rollout.requests import build_requests
from coordexp.rollout.types import BackendSettings, Decoding, RolloutOutput
from coordexp.spec import check
from tests.plugins.checkpoints import change_checkpoint

CONFIG = Path(__file__).parents[3] / "configs/stage1/smoke/shapes.yaml"


@pytest.fixture(scope="module")
def jsonl(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0)
    lines = []
    for number in range(3):
        Image.fromarray(noise.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        box = [f"<|coord_{k}|>" for k in (100, 100, 500, 500 + number)]
        lines.append(
            {
                "images": [f"{number}.png"],
                "width": 96,
                "height": 64,
                "objects": [{"desc": "red circle", "bbox_2d": box}],
            }
        )
    path = folder / "val.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, cut_processor) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    build_tiny_model(cut_processor.tokenizer, SMALLEST, seed=1).save_pretrained(folder)
    cut_processor.save_pretrained(folder)
    return folder


@pytest.mark.invariant("EVAL-012")
def test_the_command_reports_on_a_real_checkpoint(checkpoint, jsonl, tmp_path, capsys):
    out = tmp_path / "out"
    code = main(
        [
            "--config",
            str(CONFIG),
            "--checkpoint",
            str(checkpoint),
            "--jsonl",
            str(jsonl),
            "--limit",
            "2",
            "--max-new-tokens",
            "6",
            "--batch-size",
            "2",
            "--out",
            str(out),
        ]
    )
    assert code == 0
    shown = capsys.readouterr().out
    assert "answers that parse" in shown and "COCO mAP50" in shown
    assert "hf · float32 · batches of 2 · greedy · up to 6 tokens" in shown
    report = check("evaluation-report", json.loads((out / "report.json").read_text()))
    assert (report["images"], report["ground_truth_objects"], report["provenance"]["max_new_tokens"]) == (2, 2, 6)
    assert report["provenance"]["weights_sha256"] == hash_weights(checkpoint)
    assert report["provenance"]["backend"] == {
        "name": "hf", "dtype": "float32", "decode_batch_size": 2, "repeat_terminate": False,
    }  # fmt: skip
    assert sum(report["parse_failures"].values()) + report["parsed"] == 2
    lines = [
        check("evaluation-prediction", json.loads(line))
        for line in (out / "predictions.jsonl").read_text().splitlines()
    ]
    assert [line["sample_id"] for line in lines] == [f"{jsonl}:1", f"{jsonl}:2"]
    with Image.open(out / "gallery.png") as gallery:
        assert gallery.size[0] > 700


@pytest.mark.invariant("EVAL-012")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--checkpoint": "missing"}, "no such checkpoint folder"),
        ({"--config": "missing.yaml"}, "missing.yaml"),
        ({"--jsonl": "missing.jsonl"}, "missing.jsonl"),
        ({"--limit": "0"}, "the limit must be at least 1, got 0"),
        ({"--max-new-tokens": "5000"}, "exceeds the model's max_position_embeddings 4096; lower max_new_tokens to"),
        ({"--batch-size": "0"}, "decode_batch_size must be at least 1"),
    ],
)
def test_bad_input_ends_with_a_message_and_no_traceback(checkpoint, jsonl, tmp_path, capsys, change, message):
    given = {
        "--config": str(CONFIG),
        "--checkpoint": str(checkpoint),
        "--jsonl": str(jsonl),
        "--max-new-tokens": "2",
    } | change
    code = main([part for pair in given.items() for part in pair] + ["--out", str(tmp_path / "out")])
    last = capsys.readouterr().err.splitlines()
    start = max(number for number, line in enumerate(last) if line.startswith("evaluate: "))
    assert code == 1
    assert message in "\n".join(last[start:])
    assert not (tmp_path / "out").exists()


@pytest.mark.invariant("EVAL-012")
def test_an_adapter_folder_is_refused_by_name(jsonl, tmp_path, capsys):
    (tmp_path / "coord_offset.json").write_text("{}")
    assert main(["--config", str(CONFIG), "--checkpoint", str(tmp_path), "--jsonl", str(jsonl)]) == 1
    assert "holds an adapter (coord_offset.json), not a whole model" in capsys.readouterr().err


@pytest.mark.invariant("ENC-020")
def test_a_cut_file_is_named_in_the_words_of_training(checkpoint, jsonl, tmp_path, capsys):
    folder = change_checkpoint(checkpoint, tmp_path / "cut", {"cut": {"model.safetensors": 0.5}})
    with pytest.raises(CheckpointFolderError) as refused:
        check_whole_model(folder)
    assert main(["--config", str(CONFIG), "--checkpoint", str(folder), "--jsonl", str(jsonl)]) == 1
    assert capsys.readouterr().err == f"evaluate: {refused.value}\n"
    assert "model.safetensors: is cut short" in str(refused.value)


@pytest.mark.invariant("ART-010")
def test_a_file_in_the_place_of_the_output_is_named_before_anything_is_loaded(checkpoint, jsonl, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    given = ["--config", str(CONFIG), "--checkpoint", str(checkpoint), "--jsonl", str(jsonl)]
    assert main([*given, "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == (
        f"evaluate: {tmp_path}/out: is a file, not a folder; move it away, or write another path\n"
    )


@pytest.mark.invariant("ART-005")
def test_the_written_files_hold_the_evaluation(checkpoint, jsonl, cut_encoder, tmp_path):
    records = read_records(jsonl)
    wrong = (CoordObject("red circle", "bbox_2d", (600, 600, 900, 900)),)
    texts = [render_answer(records[0].objects), render_answer(wrong)[:-2] + ', {"desc": ""}]}', "no answer"]
    ids = [tuple(cut_encoder.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    outputs = [
        RolloutOutput(record.source, (1,), tokens, text, "stop", 0)
        for record, tokens, text in zip(records, ids, texts, strict=True)
    ]
    truth = [build_truth(record) for record in records]
    scored = score_outputs(build_answer_parser(cut_encoder), truth, outputs, Scoring("constant"))
    evaluation = Evaluation(
        scored,
        tuple(build_requests(records, cut_encoder)),
        tuple(outputs),
        GenerationSettings(Decoding(77)),
        BackendSettings("vllm", "bfloat16", 5),
        1.25,
    )
    write_evaluation(tmp_path, evaluation, EvaluatedFiles(checkpoint, jsonl))
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["detection"]["true_positives"], report["detection"]["false_positives"]) == (1, 1)
    stated = report["provenance"]
    assert stated["backend"] == {
        "name": "vllm", "dtype": "bfloat16", "decode_batch_size": 5, "repeat_terminate": False,
    }  # fmt: skip
    assert (stated["max_new_tokens"], stated["decoding"]["temperature"], stated["seconds"]) == (77, 0, 1.25)
    assert report["parse_failures"] == {"invalid_rollout": 1, "missing_desc": 1}
    assert report["dropped_examples"] == {"missing_desc": ['""']}
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == texts
    assert lines[0]["predictions"][0]["box"] == lines[0]["ground_truth"][0]["box"]
    assert lines[0]["failure"] is None and lines[0]["dropped"] == []
    assert lines[1]["failure"]["reason"] == "missing_desc"
    assert lines[1]["failure"]["message"].startswith("object 2 of 2 is dropped: missing_desc at tokens ")
    assert lines[1]["dropped"] == [{"reason": "missing_desc", "offending": '""'}] and len(lines[1]["predictions"]) == 1
    assert lines[2]["failure"]["message"] == 'the answer does not begin with {"objects": ['
    assert [line["truncated"] for line in lines] == [False, False, True]
    assert lines[2]["predictions"] == []
