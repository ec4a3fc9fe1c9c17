"""Any backend is asked, in one call or in shares, and its answers are scored on the images they were given for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from coordexp.coordjson import render_answer
from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.encode.encoder import Encoder
from coordexp.encode.types import IGNORE_INDEX
from coordexp.evaluation.detections import build_answer_parser, build_truths
from coordexp.evaluation.report import EvaluationError
from coordexp.evaluation.runner import GenerationSettings, Scoring, evaluate_model, score_outputs
from coordexp.evaluation.sampling import SampleSettings
from coordexp.rollout.requests import build_requests
from coordexp.rollout.types import Decoding
from tests.plugins.reciter import Reciter

CONSTANT = GenerationSettings(Decoding(40), "constant")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Four images of different sizes, the last without an object."""
    folder = tmp_path_factory.mktemp("images")
    made = []
    for number, size in enumerate([(64, 64), (96, 64), (64, 128), (128, 96)]):
        Image.new("RGB", size, (40 * number, 90, 200)).save(folder / f"{number}.png")
        found = (CoordObject("red circle", "bbox_2d", (100, 200, 500 + number, 700)),) if number < 3 else ()
        made.append(Record(f"{folder}/records.jsonl:{number + 1}", (f"{number}.png",), *size, found))
    return made


@pytest.fixture
def backend(cut_encoder: Encoder, records: list[Record]) -> Reciter:
    """Says the truth about all but the second image."""
    said = {record.source: render_answer(record.objects) for record in records}
    return Reciter(cut_encoder, said | {records[1].source: "no answer"})


@pytest.mark.invariant("EVAL-014")
def test_any_backend_is_evaluated_with_the_decoding_that_is_asked_for(
    backend: Reciter, cut_encoder: Encoder, records: list[Record]
) -> None:
    settings = replace(CONSTANT, decoding=Decoding(40, temperature=0.5, seed_base=3))
    evaluation = evaluate_model(backend, cut_encoder, records, settings)
    assert backend.asked == [([0, 1, 2, 3], settings.decoding)]
    assert (evaluation.report.detection.true_positives, evaluation.report.detection.false_negatives) == (2, 1)
    assert evaluation.report.parses.failures == {"invalid_rollout": 1}
    assert (evaluation.settings, evaluation.backend) == (settings, backend.settings)
    assert [truth.sample_id for truth in evaluation.scored.truth] == [record.source for record in records]


@pytest.mark.invariant("EVAL-014")
def test_answers_made_in_shares_score_like_those_of_one_call(
    backend: Reciter, cut_encoder: Encoder, records: list[Record]
) -> None:
    whole = evaluate_model(backend, cut_encoder, records, CONSTANT)
    shares = [build_requests(records[:1], cut_encoder), build_requests(records[1:], cut_encoder, first=1)]
    assert [request for share in shares for request in share] == list(whole.requests)
    outputs = [output for share in shares for output in backend.generate(share, CONSTANT.decoding)]
    truth = build_truths(records, cut_encoder)
    scored = score_outputs(build_answer_parser(cut_encoder), truth, outputs, Scoring("constant"))
    assert replace(whole.report, ceiling=None) == scored.report
    assert whole.report.ceiling is not None and whole.report.ceiling.reached
    assert (scored.truth, scored.predictions) == (whole.scored.truth, whole.scored.predictions)


@pytest.mark.invariant("EVAL-014")
@pytest.mark.parametrize("order", [[1, 0, 2, 3], [0, 1, 2], [0, 1, 2, 3, 3]], ids=["moved", "missing", "twice"])
def test_answers_in_another_order_than_the_images_are_refused(
    backend: Reciter, cut_encoder: Encoder, records: list[Record], order: list[int]
) -> None:
    outputs = backend.generate(build_requests(records, cut_encoder), CONSTANT.decoding)
    truth = build_truths(records, cut_encoder)
    with pytest.raises(EvaluationError, match=r"\d answers do not follow the 4 images one by one"):
        score_outputs(build_answer_parser(cut_encoder), truth, [outputs[i] for i in order], Scoring("constant"))
    with pytest.raises(EvaluationError, match=r"\d answers do not follow the 4 images one by one"):
        score_outputs(
            build_answer_parser(cut_encoder), truth, outputs, Scoring("constant"), [[outputs[i] for i in order]]
        )


@pytest.mark.invariant("EVAL-014")
def test_scores_that_the_backend_cannot_give_are_refused_before_it_is_asked(
    backend: Reciter, cut_encoder: Encoder, records: list[Record]
) -> None:
    with pytest.raises(EvaluationError, match=r"the reciter backend gives none: build it with logprobs=True, or score"):
        evaluate_model(backend, cut_encoder, records, GenerationSettings(Decoding(40)))
    assert backend.asked == []


@pytest.mark.invariant("EVAL-020")
def test_samples_are_asked_for_with_their_own_decoding_and_told_as_one_work(
    backend: Reciter, cut_encoder: Encoder, records: list[Record]
) -> None:
    samples = SampleSettings(2, Decoding(40, temperature=0.9, seed_base=5))
    told: list[tuple[int, int]] = []
    settings = replace(CONSTANT, samples=samples)
    evaluation = evaluate_model(backend, cut_encoder, records, settings, lambda *step: told.append(step))
    assert backend.asked == [(list(range(4)), CONSTANT.decoding), (list(range(8)), samples.decoding)]
    assert told == [(4, 12), (12, 12)]
    assert [len(sample) for sample in evaluation.samples] == [4, 4]
    assert evaluation.scored.samples == (evaluation.scored.predictions,) * 2
    found = evaluation.report.samples
    assert found is not None and (found.greedy, found.found, found.not_seen) == (2, (2, 2), 1)


@pytest.mark.invariant("EVAL-022")
def test_the_annotated_answer_is_as_long_as_what_training_teaches(cut_encoder: Encoder, records: list[Record]) -> None:
    for record, truth in zip(records, build_truths(records, cut_encoder), strict=True):
        assert truth.answer_tokens == int((cut_encoder.sample(record).labels != IGNORE_INDEX).sum())


def test_an_evaluation_without_records_is_refused(backend: Reciter, cut_encoder: Encoder) -> None:
    with pytest.raises(EvaluationError, match="no records to evaluate"):
        evaluate_model(backend, cut_encoder, [], CONSTANT)
