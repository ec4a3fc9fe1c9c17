"""Answers and records as boxes: bins to pixels, strict parsing, confidence."""

from __future__ import annotations

import math

import pytest

from coordexp.coordjson import render_answer
from coordexp.coords.types import CoordObject
from coordexp.coords.vocab import build_coord_vocab
from coordexp.data.types import Record
from coordexp.evaluation.confidence import build_coord_scorer
from coordexp.evaluation.detections import build_truth, parse_prediction, pixel_box
from coordexp.rollout.types import RolloutOutput

CAT = CoordObject("black cat", "bbox_2d", (0, 111, 999, 888))
DOG = CoordObject('dog "rex"', "bbox_2d", (100, 200, 300, 400))


def answer(text: str, **more) -> RolloutOutput:
    return RolloutOutput("a.jsonl:1", (1,), (2, 3), text, more.pop("finish_reason", "stop"), **more)


@pytest.mark.invariant("EVAL-007")
def test_a_bin_is_a_share_of_the_last_pixels_coordinate():
    assert pixel_box(CAT, 1000, 334) == pytest.approx((0.0, 37.0, 999.0, 296.0))


@pytest.mark.invariant("EVAL-007")
def test_a_polygon_counts_as_its_bounding_box():
    poly = CoordObject("leaf", "poly", (500, 100, 200, 900, 800, 300))
    assert pixel_box(poly, 1000, 1000) == pytest.approx((200, 100, 800, 900))


@pytest.mark.invariant("EVAL-007")
def test_ground_truth_keeps_every_object_and_its_split():
    record = Record("a.jsonl:1", ("a.png",), 100, 50, (CAT, DOG), metadata={"split": "crowded"})
    truth = build_truth(record)
    assert [obj.desc for obj in truth.objects] == ["black cat", 'dog "rex"']
    assert (truth.sample_id, truth.width, truth.height, truth.split) == ("a.jsonl:1", 100, 50, "crowded")
    assert build_truth(Record("a.jsonl:1", ("a.png",), 100, 50, ())).split is None


@pytest.mark.invariant("EVAL-006")
def test_an_answer_in_the_canonical_form_gives_its_objects():
    found = parse_prediction(answer(render_answer((CAT, DOG))), 1000, 1000)
    assert [d.desc for d in found.detections] == ["black cat", 'dog "rex"']
    assert found.detections[1].box == pytest.approx((100, 200, 300, 400))
    assert found.failure is None and all(d.score == 1.0 for d in found.detections)


@pytest.mark.invariant("EVAL-006")
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[:-2], "syntax"),
        (lambda text: text + "!", "container"),
        (lambda text: text.replace("<|coord_400|>", "400"), "non_coord_token"),
        (lambda text: text.replace(", <|coord_400|>", ""), "wrong_arity"),
        (lambda text: text.replace("<|coord_100|>", "<|coord_900|>"), "bbox_invalid"),
        (lambda text: text.replace("objects", "boxes"), "container"),
        (lambda text: text.replace("bbox_2d", "bbox", 1), "unknown_geom"),
    ],
)
def test_an_answer_that_does_not_parse_gives_nothing_but_its_reason(damage, reason):
    text = damage(render_answer((CAT, DOG)))
    found = parse_prediction(answer(text), 1000, 1000)
    assert found.detections == ()
    assert found.failure == reason
    assert found.failure_detail


@pytest.mark.invariant("EVAL-006")
def test_an_answer_cut_by_the_token_limit_is_marked_and_not_repaired():
    found = parse_prediction(answer(render_answer((CAT, DOG))[:-1], finish_reason="length"), 1000, 1000)
    assert (found.detections, found.truncated) == ((), True)


@pytest.mark.invariant("EVAL-008")
def test_confidence_is_the_mean_probability_of_an_objects_coord_tokens(cut_tokenizer):
    text = render_answer((CAT, DOG))
    ids = cut_tokenizer(text, add_special_tokens=False)["input_ids"]
    coords = set(build_coord_vocab(cut_tokenizer).ids)
    wanted = iter([0.9, 0.7, 0.5, 0.3, 0.2, 0.2, 0.4, 0.4])
    logprobs = tuple(math.log(next(wanted)) if token in coords else -9.0 for token in ids)
    output = RolloutOutput("a", (1,), tuple(ids), text, "stop", token_logprobs=logprobs)
    scorer = build_coord_scorer(build_coord_vocab(cut_tokenizer))
    assert scorer(output) == pytest.approx((0.6, 0.3))
    found = parse_prediction(output, 1000, 1000, scorer)
    assert [d.score for d in found.detections] == pytest.approx([0.6, 0.3])


@pytest.mark.invariant("EVAL-008")
def test_a_coord_token_inside_a_desc_is_no_part_of_an_objects_confidence(cut_tokenizer):
    text = render_answer((CoordObject("cat <|coord_5|>", "bbox_2d", (1, 2, 3, 4)),))
    vocab = build_coord_vocab(cut_tokenizer)
    ids = cut_tokenizer(text, add_special_tokens=False)["input_ids"]
    probabilities = {5: 0.01, 1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5}
    logprobs = tuple(math.log(probabilities[vocab.bin_of(t)]) if vocab.bin_of(t) is not None else 0.0 for t in ids)
    output = RolloutOutput("a", (1,), tuple(ids), text, "stop", token_logprobs=logprobs)
    assert build_coord_scorer(vocab)(output) == pytest.approx((0.5,))


@pytest.mark.invariant("EVAL-008")
def test_confidence_without_logprobs_or_alignment_is_refused(cut_tokenizer):
    scorer = build_coord_scorer(build_coord_vocab(cut_tokenizer))
    text = render_answer((CAT,))
    with pytest.raises(ValueError, match="needs the tokens' log-probabilities"):
        scorer(RolloutOutput("a", (1,), (5,), text, "stop"))
    with pytest.raises(ValueError, match="holds 4 coord tokens, the answer's ids 0"):
        scorer(RolloutOutput("a", (1,), (5,), text, "stop", token_logprobs=(-0.1,)))
