"""Answers and records as boxes: bins to pixels, the one parse of an answer, confidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
from transformers import Qwen2TokenizerFast

from coordexp.coordjson import render_answer
from coordexp.coords.types import CoordObject
from coordexp.coords.vocab import build_coord_vocab
from coordexp.data.types import Record
from coordexp.encode.encoder import Encoder
from coordexp.encode.rollout_parse import RolloutParser
from coordexp.evaluation.confidence import score_by_coords
from coordexp.evaluation.detections import build_answer_parser, build_truth, parse_prediction, pixel_box
from coordexp.evaluation.types import ImagePrediction
from coordexp.rollout.types import RolloutOutput

CAT = CoordObject("black cat", "bbox_2d", (0, 111, 999, 888))
DOG = CoordObject('dog "rex"', "bbox_2d", (100, 200, 300, 400))
LEAF = CoordObject("leaf", "poly", (500, 100, 200, 900, 800, 300))
Predict = Callable[..., ImagePrediction]


@pytest.fixture(scope="module")
def parser(cut_encoder: Encoder) -> RolloutParser:
    return build_answer_parser(cut_encoder)


@pytest.fixture(scope="module")
def predict(cut_tokenizer: Qwen2TokenizerFast, parser: RolloutParser) -> Predict:
    """What an answer of some text says about an image of 1000 x 1000 pixels."""

    def predict_text(text: str, finish_reason: str = "stop") -> ImagePrediction:
        ids = cut_tokenizer(text, add_special_tokens=False)["input_ids"]
        output = RolloutOutput("a.jsonl:1", (1,), tuple(ids), text, finish_reason, 0)
        return parse_prediction(output, 1000, 1000, parser)

    return predict_text


@pytest.mark.invariant("EVAL-007")
def test_a_bin_is_a_share_of_the_last_pixels_coordinate() -> None:
    assert pixel_box(CAT, 1000, 334) == pytest.approx((0.0, 37.0, 999.0, 296.0))


@pytest.mark.invariant("EVAL-007")
def test_a_polygon_counts_as_its_bounding_box() -> None:
    poly = CoordObject("leaf", "poly", (500, 100, 200, 900, 800, 300))
    assert pixel_box(poly, 1000, 1000) == pytest.approx((200, 100, 800, 900))


@pytest.mark.invariant("EVAL-007")
def test_ground_truth_keeps_every_object_and_its_split() -> None:
    record = Record("a.jsonl:1", ("a.png",), 100, 50, (CAT, DOG), metadata={"split": "crowded"})
    truth = build_truth(record)
    assert [obj.desc for obj in truth.objects] == ["black cat", 'dog "rex"']
    assert (truth.sample_id, truth.width, truth.height, truth.split) == ("a.jsonl:1", 100, 50, "crowded")
    assert build_truth(Record("a.jsonl:1", ("a.png",), 100, 50, ())).split is None


@pytest.mark.invariant("EVAL-006")
def test_an_answer_in_the_canonical_form_gives_its_objects(predict: Predict) -> None:
    found = predict(render_answer((CAT, DOG, LEAF)))
    assert [d.desc for d in found.detections] == ["black cat", 'dog "rex"', "leaf"]
    assert found.detections[1].box == pytest.approx((100, 200, 300, 400))
    assert found.detections[2].box == pytest.approx((200, 100, 800, 900))
    assert found.parse.strict and all(d.score == 1.0 for d in found.detections)


@pytest.mark.invariant("EVAL-006")
@pytest.mark.parametrize(
    ("damage", "failure", "kept"),
    [
        (lambda text: text[:-1], "truncated", ["black cat", 'dog "rex"']),
        (lambda text: text + "!", "trailing_text", ["black cat", 'dog "rex"']),
        (lambda text: text.replace("<|coord_400|>", "400"), "non_coord_token", ["black cat"]),
        (lambda text: text.replace(", <|coord_400|>", ""), "wrong_arity", ["black cat"]),
        (lambda text: text.replace("<|coord_100|>", "<|coord_900|>"), "bbox_invalid", ["black cat"]),
        (lambda text: text.replace("objects", "boxes"), "invalid_rollout", []),
        (lambda text: text.replace("bbox_2d", "bbox", 1), "unknown_geom", ['dog "rex"']),
        (lambda text: text.replace(", {", " {"), "malformed_tail", ["black cat"]),
    ],
)
def test_a_fault_loses_the_object_it_is_in_and_the_answers_strictness(
    predict: Predict, damage: Callable[[str], str], failure: str, kept: list[str]
) -> None:
    found = predict(damage(render_answer((CAT, DOG))))
    assert [d.desc for d in found.detections] == kept
    assert (found.parse.failure, found.parse.strict) == (failure, False)


@pytest.mark.invariant("EVAL-006")
@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_running_into_the_token_limit_is_told_apart_from_being_truncated(predict: Predict, finish_reason: str) -> None:
    for text, truncated in ((render_answer((CAT, DOG))[:-1], True), (render_answer((CAT, DOG)), False)):
        found = predict(text, finish_reason)
        assert (found.parse.truncated, found.token_limit) == (truncated, finish_reason == "length")
        assert len(found.detections) == 2


@pytest.mark.invariant("EVAL-006")
def test_the_token_ids_are_read_not_the_text(cut_tokenizer: Qwen2TokenizerFast, parser: RolloutParser) -> None:
    """A coord token spelled with ordinary tokens decodes to the same text and is none."""
    text = render_answer((CAT,))
    before, after = text.split("<|coord_888|>")
    parts = (before, "<|coord", "_888|>", after)
    ids = [token for part in parts for token in cut_tokenizer(part, add_special_tokens=False)["input_ids"]]
    assert cut_tokenizer.decode(ids) == text
    found = parse_prediction(RolloutOutput("a", (1,), tuple(ids), text, "stop", 0), 1000, 1000, parser)
    assert (found.detections, found.parse.failure) == ((), "non_coord_token")


def answered(tokenizer: Qwen2TokenizerFast, text: str, chances: Mapping[int, float]) -> RolloutOutput:
    """An answer with log-probabilities: of a coord token that of its bin in `chances`, of any other token -9."""
    vocab = build_coord_vocab(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    bins = [vocab.bin_of(token) for token in ids]
    logprobs = tuple(-9.0 if value is None else math.log(chances[value]) for value in bins)
    return RolloutOutput("a", (1,), tuple(ids), text, "stop", 0, token_logprobs=logprobs)


CHANCES = {0: 0.9, 111: 0.7, 999: 0.5, 888: 0.3, 100: 0.2, 200: 0.2, 300: 0.4, 400: 0.4, 5: 0.01}
FIRST, SECOND = (0.9 * 0.7 * 0.5 * 0.3) ** 0.25, (0.2 * 0.2 * 0.4 * 0.4) ** 0.25


@pytest.mark.invariant("EVAL-008")
@pytest.mark.parametrize(
    ("damage", "scores"),
    [
        (lambda text: text, [FIRST, SECOND]),
        (lambda text: text.replace("<|coord_999|>", "17"), [SECOND]),
        (lambda text: text.replace("black cat", "cat <|coord_5|>"), [FIRST, SECOND]),
        (lambda text: text.replace("<|coord_400|>]}", "<|coord_400|>], "), [FIRST]),
    ],
    ids=["both sound", "the first is dropped", "a coord token in a desc", "the second is cut off"],
)
def test_confidence_is_the_geometric_mean_of_the_probabilities_of_an_objects_coord_tokens(
    cut_tokenizer: Qwen2TokenizerFast, parser: RolloutParser, damage: Callable[[str], str], scores: list[float]
) -> None:
    output = answered(cut_tokenizer, damage(render_answer((CAT, DOG))), CHANCES)
    assert score_by_coords(output, parser.parse(output.response_token_ids)) == pytest.approx(scores)
    found = parse_prediction(output, 1000, 1000, parser, score_by_coords)
    assert [d.score for d in found.detections] == pytest.approx(scores)


@pytest.mark.invariant("EVAL-008")
def test_confidence_without_log_probabilities_is_refused(
    cut_tokenizer: Qwen2TokenizerFast, parser: RolloutParser
) -> None:
    text = render_answer((CAT,))
    ids = tuple(cut_tokenizer(text, add_special_tokens=False)["input_ids"])
    with pytest.raises(ValueError, match="sample a: confidence needs the tokens' log-probabilities"):
        parse_prediction(RolloutOutput("a", (1,), ids, text, "stop", 0), 1000, 1000, parser, score_by_coords)
