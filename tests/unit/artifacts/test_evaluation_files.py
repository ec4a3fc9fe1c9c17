"""Evaluation's files say what was annotated and what was answered: three images that differ in everything.

Widths and heights are chosen so that a bin's pixel can be worked out by hand: of 334 pixels bin k is k/3, of 112 it is
k/9, of 38 it is k/27.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from coordexp.artifacts.evaluation_files import EvaluatedFiles, write_evaluation
from coordexp.artifacts.stored_evaluation import read_evaluation
from coordexp.coordjson import render_answer
from coordexp.coords.types import CoordObject
from coordexp.coords.vocab import build_coord_vocab
from coordexp.data.types import Record
from coordexp.evaluation.confidence import score_by_coords
from coordexp.evaluation.detections import build_answer_parser, build_truth, parse_prediction
from coordexp.evaluation.report import evaluate_detections, render_report
from coordexp.evaluation.runner import Evaluation, GenerationSettings, Scored
from coordexp.evaluation.types import Box, Detection, ImagePrediction, ImageTruth
from coordexp.rollout.types import BackendSettings, RolloutOutput, RolloutRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from coordexp.encode.encoder import Encoder

CIRCLE = CoordObject("red circle", "bbox_2d", (90, 270, 300, 540))
SQUARE = CoordObject("blue square", "bbox_2d", (600, 189, 900, 810))
STAR = CoordObject("red star", "poly", (27, 54, 405, 810, 243, 972))
CROSS = CoordObject("black cross", "bbox_2d", (54, 99, 702, 333))
"""What is annotated. In the file's order, which is neither that of names nor of places."""
NEAR_CIRCLE = CoordObject("red circle", "bbox_2d", (99, 279, 318, 567))
LOST = CoordObject("white diamond", "bbox_2d", (756, 900, 810, 990))
NEAR_CROSS = CoordObject("black cross", "bbox_2d", (81, 108, 729, 360))

RECORDS = (
    Record("b.jsonl:7", ("second.png",), 334, 112, (SQUARE, CIRCLE), metadata={"split": "wide"}),
    Record("a.jsonl:9", ("first.png",), 38, 334, (STAR,), metadata={"split": "narrow"}),
    Record("c.jsonl:2", ("third.png",), 112, 38, (CROSS,), metadata={"split": "wide"}),
)
TEXTS = (
    render_answer((NEAR_CIRCLE, LOST)),
    "no answer",
    render_answer((NEAR_CROSS,))[:-2] + ', {"desc": ""}]',
)
FINISH = ("stop", "length", "length")
CHANCES = (
    {99: 0.9, 279: 0.7, 318: 0.5, 567: 0.3}
    | {756: 0.2, 900: 0.3, 810: 0.2, 990: 0.1}
    | {81: 0.95, 108: 0.85, 729: 0.75, 360: 0.65}
)
"""Probability of each predicted bin's token; the geometric mean of an object's four is its score."""
EXPECTED = (
    {
        "sample_id": "b.jsonl:7",
        "image": "second.png",
        "width": 334,
        "height": 112,
        "finish_reason": "stop",
        "truncated": False,
        "predictions": [
            {"desc": "red circle", "box": [33.0, 31.0, 106.0, 63.0], "score": 0.554},
            {"desc": "white diamond", "box": [252.0, 100.0, 270.0, 110.0], "score": 0.186},
        ],
        "ground_truth": [
            {"desc": "blue square", "box": [200.0, 21.0, 300.0, 90.0], "score": 1.0},
            {"desc": "red circle", "box": [30.0, 30.0, 100.0, 60.0], "score": 1.0},
        ],
        "dropped": [],
    },
    {
        "sample_id": "a.jsonl:9",
        "image": "first.png",
        "width": 38,
        "height": 334,
        "finish_reason": "length",
        "truncated": True,
        "predictions": [],
        "ground_truth": [{"desc": "red star", "box": [1.0, 18.0, 15.0, 324.0], "score": 1.0}],
        "dropped": [],
    },
    {
        "sample_id": "c.jsonl:2",
        "image": "third.png",
        "width": 112,
        "height": 38,
        "finish_reason": "length",
        "truncated": True,
        "predictions": [{"desc": "black cross", "box": [9.0, 4.0, 81.0, 13.333], "score": 0.792}],
        "ground_truth": [{"desc": "black cross", "box": [6.0, 3.667, 78.0, 12.333], "score": 1.0}],
        "dropped": [{"reason": "missing_desc", "offending": '""'}],
    },
)

BACKEND = BackendSettings("hf", "float32", 8, logprobs=True)


def _green(red: int, green: int, blue: int) -> bool:
    return green > 2 * red and green > 1.5 * blue


def _red(red: int, green: int, blue: int) -> bool:
    return red > 3 * green and red > 3 * blue


def _magenta(red: int, green: int, blue: int) -> bool:
    return min(red, blue) > 3 * green


COLOURED = (
    (((33.0, 31.0, 106.0, 63.0), _green), ((252.0, 100.0, 270.0, 110.0), _red), ((200.0, 21.0, 300.0, 90.0), _magenta)),
    (((1.0, 18.0, 15.0, 324.0), _magenta),),
    (((9.0, 4.0, 81.0, 13.333), _green),),
)
"""Boxes of each image and the colour of their outlines."""
GROUNDS = ((150, 200, 205), (150, 190, 150), (190, 150, 190))
"""Colour of each image."""


def evaluate(encoder: Encoder, folder: Path, order: Sequence[int] = (0, 1, 2)) -> Evaluation:
    """The evaluation of these records with these answers, images beside; nothing is generated."""
    vocab = build_coord_vocab(encoder.tokenizer)
    parser = build_answer_parser(encoder)
    records, requests, outputs, predictions = [], [], [], []
    for number in order:
        record, text = RECORDS[number], TEXTS[number]
        path = folder / record.images[0]
        Image.new("RGB", (record.width, record.height), GROUNDS[number]).save(path)
        ids = tuple(encoder.tokenizer(text, add_special_tokens=False)["input_ids"])
        bins = [vocab.bin_of(token) for token in ids]
        logprobs = tuple(-9.0 if value is None else math.log(CHANCES[value]) for value in bins)
        output = RolloutOutput(record.source, (1,), ids, text, FINISH[number], 0, token_logprobs=logprobs)
        records.append(record)
        requests.append(RolloutRequest(record.source, (1,), (path,), number, ((record.width, record.height),)))
        outputs.append(output)
        predictions.append(parse_prediction(output, record.width, record.height, parser, score_by_coords))
    truth = tuple(build_truth(record) for record in records)
    report = evaluate_detections(truth, predictions, score_mode="confidence")
    scored = Scored(report, truth, tuple(predictions))
    return Evaluation(scored, tuple(requests), tuple(outputs), GenerationSettings(), BACKEND, 1.25)


def about(folder: Path) -> EvaluatedFiles:
    """A checkpoint folder and a file of records, of which only the bytes are looked at."""
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint/model.safetensors").write_bytes(b"weights")
    (folder / "val.jsonl").write_text("{}\n")
    return EvaluatedFiles(folder / "checkpoint", folder / "val.jsonl")


def written(encoder: Encoder, folder: Path, order: Sequence[int] = (0, 1, 2)) -> Path:
    return write_evaluation(folder / "out", evaluate(encoder, folder, order), about(folder))


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.invariant("ART-005")
@pytest.mark.invariant("ART-011")
@pytest.mark.parametrize(
    "order", [(0, 1, 2), (2, 0, 1), (1, 2)], ids=["as listed", "turned round", "without the first"]
)
def test_each_line_holds_its_own_image_truth_and_answer(cut_encoder, tmp_path, order):
    lines = read_lines(written(cut_encoder, tmp_path, order))
    assert len(lines) == len(order)
    for line, number in zip(lines, order, strict=True):
        expected = EXPECTED[number]
        assert {key: rounded(line[key]) for key in expected} == expected | {"image": str(tmp_path / expected["image"])}
        assert line["text"] == TEXTS[number]
        ids = cut_encoder.tokenizer(TEXTS[number], add_special_tokens=False)["input_ids"]
        assert line["response_tokens"] == len(ids)
    failures = [line["failure"] and line["failure"]["reason"] for line in lines]
    assert failures == [(None, "invalid_rollout", "missing_desc")[number] for number in order]


@pytest.mark.invariant("ART-011")
@pytest.mark.invariant("EVAL-013")
def test_the_report_counts_each_fault_in_its_split(cut_encoder, tmp_path):
    report = json.loads((written(cut_encoder, tmp_path) / "report.json").read_text(encoding="utf-8"))
    keys = ("images", "ground_truth_objects", "predicted_objects", "parsed", "invalid_rollouts", "truncated")
    keys += ("malformed_tails", "token_limit", "unknown_desc")
    assert [report[key] for key in keys] == [3, 4, 3, 1, 1, 2, 0, 2, 1]
    assert set(report["splits"]) == {"wide", "narrow"}
    assert [report["splits"]["wide"][key] for key in keys] == [2, 3, 3, 1, 0, 1, 0, 1, 1]
    assert [report["splits"]["narrow"][key] for key in keys] == [1, 1, 0, 0, 1, 1, 0, 1, 0]
    assert report["splits"]["wide"]["parse_failures"] == {"missing_desc": 1}
    assert report["splits"]["narrow"]["parse_failures"] == {"invalid_rollout": 1}
    assert report["splits"]["narrow"]["dropped_objects"]["missing_desc"] == 0
    assert report["splits"]["wide"]["dropped_examples"] == {"missing_desc": ['""']}
    outcomes = ("true_positives", "false_positives", "false_negatives")
    matched = {name: [part["detection"][key] for key in outcomes] for name, part in report["splits"].items()}
    assert matched == {"wide": [2, 1, 1], "narrow": [0, 0, 1]}
    assert report["score_mode"] == "confidence"


def outlined(shown: NDArray[Any], box: Box, size: tuple[int, int], wanted: Callable[[int, int, int], bool]) -> bool:
    """Whether the lower and the right side of a box have the colour in their middle, in a picture of any scale."""
    x1, y1, x2, y2 = box
    across, down = (shown.shape[1] - 1) / (size[0] - 1), (shown.shape[0] - 1) / (size[1] - 1)
    for x, y in (((x1 + x2) / 2 * across, y2 * down - 1), (x2 * across - 1, (y1 + y2) / 2 * down)):
        around = shown[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4].reshape(-1, 3)
        if not any(wanted(*pixel) for pixel in around):
            return False
    return True


@pytest.mark.invariant("ART-011")
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)], ids=["as listed", "turned round"])
def test_the_gallery_shows_each_image_with_its_own_boxes(cut_encoder, tmp_path, order):
    with Image.open(written(cut_encoder, tmp_path, order) / "gallery.png") as opened:
        page = np.asarray(opened.convert("RGB")).astype(int)
    lefts = []
    for number in order:
        rows, columns = np.nonzero((page == GROUNDS[number]).all(axis=2))
        top, left = rows.min(), columns.min()
        shown = page[top : rows.max() + 1, left : columns.max() + 1]
        record = RECORDS[number]
        assert shown.shape[1] / shown.shape[0] == pytest.approx(record.width / record.height, rel=0.03)
        lefts.append(left + shown.shape[1] / 2)
        for box, wanted in COLOURED[number]:
            assert outlined(shown, box, (record.width, record.height), wanted), f"image {number}, {box}"
    assert lefts == sorted(lefts)


@pytest.mark.invariant("ART-011")
def test_a_gallery_of_some_images_shows_each_chosen_one_with_its_own_box(tmp_path):
    """Twenty images of one size, of which sixteen are shown: number n has its box at column 4 n."""
    truth, predictions, requests, outputs = [], [], [], []
    for number in range(20):
        sample, path = f"a.jsonl:{number + 1}", tmp_path / f"{number}.png"
        Image.new("RGB", (120, 48), (150 + 5 * number, 200, 205)).save(path)
        objects = (Detection("cat", (4.0 * number, 12.0, 4.0 * number + 30, 40.0)),)
        truth.append(ImageTruth(sample, 120, 48, objects))
        predictions.append(ImagePrediction(sample, objects))
        requests.append(RolloutRequest(sample, (1,), (path,), number, ((120, 48),)))
        outputs.append(RolloutOutput(sample, (1,), (2,), "", "stop", 0))
    evaluation = Evaluation(
        Scored(evaluate_detections(truth, predictions), tuple(truth), tuple(predictions)),
        tuple(requests),
        tuple(outputs),
        GenerationSettings(),
        BACKEND,
        1.25,
    )
    with Image.open(write_evaluation(tmp_path / "out", evaluation, about(tmp_path)) / "gallery.png") as opened:
        page = np.asarray(opened.convert("RGB")).astype(int)
    seen = {}
    for number in range(20):
        rows, columns = np.nonzero((page == (150 + 5 * number, 200, 205)).all(axis=2))
        if len(rows):
            shown = page[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            seen[number] = outlined(shown, truth[number].objects[0].box, (120, 48), _green)
    assert seen == dict.fromkeys([0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18], True)


@pytest.mark.invariant("ART-081")
def test_stored_answers_scored_again_give_the_report_again(cut_encoder, tmp_path, monkeypatch):
    """A malformed tail, a missing container, a dropped object and sampled answers all have to come back."""
    tail = render_answer((NEAR_CROSS,))[:-2] + ", 5]}"
    dropped = render_answer((NEAR_CIRCLE,))[:-2] + ', {"desc": ""}]}'
    monkeypatch.setattr(sys.modules[__name__], "TEXTS", (dropped, "no answer", tail))
    greedy = evaluate(cut_encoder, tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "TEXTS", (render_answer((NEAR_CIRCLE, LOST)), dropped, "no answer"))
    sampled = evaluate(cut_encoder, tmp_path)
    drawn = (sampled.scored.predictions,)
    scored = replace(
        greedy.scored,
        samples=drawn,
        report=evaluate_detections(
            greedy.scored.truth, greedy.scored.predictions, score_mode="confidence", samples=drawn
        ),
    )
    evaluation = replace(greedy, scored=scored, samples=(sampled.outputs,))
    stored = read_evaluation(write_evaluation(tmp_path / "out", evaluation, about(tmp_path)))
    told = render_report(scored.report)
    assert (told["malformed_tails"], told["invalid_rollouts"], told["token_limit"]) == (1, 1, 2), "the premises"
    assert sum(told["dropped_objects"].values()) == 1 and 0 < told["samples"]["parse_rate"] < 1, "the premises"
    answers = stored.answers
    again = evaluate_detections(
        answers.truth, answers.predictions, score_mode=scored.report.score_mode, samples=answers.samples
    )
    assert render_report(again) == told
    assert {key: stored.report[key] for key in told} == told
    assert [path.name for path in answers.images] == ["second.png", "first.png", "third.png"]


def rounded(value):
    """Numbers to three decimals, at any depth."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return {key: rounded(part) for key, part in value.items()} if isinstance(value, dict) else value
