"""Recall at K by hand: what each sample finds, what they find together, and what greedy decoding missed of it."""

from __future__ import annotations

import math

import pytest

from coordexp.evaluation.report import EvaluationError, evaluate_detections, render_report
from coordexp.evaluation.sampling import SampleSettings, build_sample_requests, read_samples
from coordexp.evaluation.summary import build_sample_table, build_summary_table
from coordexp.evaluation.types import Detection, DetectionReport, ImagePrediction, ImageTruth, SampledRecall
from coordexp.rollout.seeding import evaluation_seed_base
from coordexp.rollout.types import Decoding, RolloutError, RolloutRequest

A, B, C = (Detection("cat", (x, 0, x + 20, 20)) for x in (0, 30, 60))
D, E = Detection("dog", (0, 0, 40, 40)), Detection("cow", (50, 50, 90, 90))
LOOSE_B = Detection("cat", (32, 0, 52, 20))
NARROW_A = Detection("cat", (0, 0, 9, 20))
MISNAMED_C = Detection("dog", C.box)
TRUTH = [ImageTruth("one", 100, 100, (A, B, C), "plain", 30), ImageTruth("two", 100, 100, (D, E), "crowded", 20)]


def answers(one: tuple[Detection, ...], two: tuple[Detection, ...], tokens: int | None = None) -> list[ImagePrediction]:
    return [ImagePrediction(name, found, generated_tokens=tokens) for name, found in (("one", one), ("two", two))]


GREEDY = answers((A, E), (E, NARROW_A), 25)
SAMPLES = [
    answers((A, LOOSE_B, B), ()),  # two for one object: it counts once, and the second is wrong
    answers((B, MISNAMED_C), (D,)),
    answers((NARROW_A,), ()),
    answers((A,), (D,)),
]


def measured(samples: list[list[ImagePrediction]] = SAMPLES) -> tuple[DetectionReport, SampledRecall]:
    report = evaluate_detections(TRUTH, GREEDY, samples=samples)
    assert report.samples is not None
    return report, report.samples


@pytest.mark.invariant("EVAL-016")
def test_samples_are_counted_alone_and_together_each_object_once() -> None:
    report, found = measured()
    assert report.ground_truth_objects == found.objects == 5
    assert found.recalls == (0.4, 0.4, 0.0, 0.4)
    assert found.mean_recall == pytest.approx(0.3)
    assert found.union_recalls == (0.4, 0.6, 0.6, 0.6)
    assert found.greedy_recall == report.detection.recall == 0.4


@pytest.mark.invariant("EVAL-016")
def test_what_greedy_misses_was_seen_or_was_not() -> None:
    """Of A to E greedy says A and E; the samples find A, B and D; nobody finds C."""
    _, found = measured()
    assert (found.seen_not_said, found.not_seen) == (2, 1)


@pytest.mark.invariant("EVAL-016")
def test_a_split_has_the_recall_of_its_own_images() -> None:
    report, _ = measured()
    own = {name: part.samples for name, part in report.splits.items()}
    assert own["plain"] is not None and own["crowded"] is not None
    assert own["plain"].union_recalls == pytest.approx((2 / 3,) * 4)
    assert own["crowded"].union_recalls == (0, 0.5, 0.5, 0.5)
    assert (own["crowded"].greedy_recall, own["crowded"].seen_not_said, own["crowded"].not_seen) == (0.5, 1, 0)


@pytest.mark.invariant("EVAL-016")
def test_one_sample_is_its_own_union() -> None:
    _, found = measured(SAMPLES[1:2])
    assert (found.recalls, found.union_recalls, found.mean_recall) == ((0.4,), (0.4,), 0.4)


@pytest.mark.invariant("EVAL-016")
@pytest.mark.parametrize("reverse", [False, True])
def test_an_object_that_could_be_either_is_the_same_one_in_any_order(reverse: bool) -> None:
    """A prediction midway between two objects matches both equally well; the next sample names one of them."""
    left, middle, right = (Detection("cat", (x, 0, x + 10, 10)) for x in (0, 2, 4))
    objects = (right, left) if reverse else (left, right)
    truth = [ImageTruth("one", 100, 100, objects)]
    samples = [[ImagePrediction("one", (middle,))], [ImagePrediction("one", (left,))]]
    found = evaluate_detections(truth, [ImagePrediction("one", ())], samples=samples).samples
    assert found is not None and found.found_together == (1, 1)


@pytest.mark.invariant("EVAL-016")
def test_without_ground_truth_recall_is_null_and_the_document_fits() -> None:
    truth, nothing = [ImageTruth("one", 9, 9, ())], [ImagePrediction("one", ())]
    document = render_report(evaluate_detections(truth, nothing, samples=[nothing, nothing]))["samples"]
    assert document["recall"] == document["union_recall"] == [None, None]
    assert document["recall_mean"] is document["greedy_recall"] is None
    assert (document["count"], document["seen_not_said"], document["not_seen"]) == (2, 0, 0)


@pytest.mark.invariant("EVAL-009")
def test_a_sample_without_an_answer_for_an_image_is_refused() -> None:
    with pytest.raises(EvaluationError, match="1 samples have no prediction, first 'two'"):
        evaluate_detections(TRUTH, GREEDY, samples=[SAMPLES[0], SAMPLES[1][:1]])


@pytest.mark.invariant("EVAL-016")
def test_the_terminal_shows_each_sample_for_the_whole_and_the_splits() -> None:
    report, _ = measured()
    table = build_sample_table(report)
    assert [str(column.header) for column in table.columns][1::2] == ["all: alone", "crowded: alone", "plain: alone"]
    rows = {cells[0]: cells[1:] for cells in zip(*(map(str, column.cells) for column in table.columns), strict=True)}
    assert rows["sample 2"] == ("0.400", "0.600", "0.500", "0.500", "0.333", "0.667")
    assert rows["objects that no answer finds"] == ("1", "", "0", "", "1", "")
    assert "samples" not in render_report(evaluate_detections(TRUTH, GREEDY))


@pytest.mark.invariant("EVAL-022")
def test_lengths_stand_beside_those_of_the_annotated_answers() -> None:
    report, found = measured([answers((), (), 40), answers((), (), 60)])
    assert (report.lengths.generated, report.lengths.ground_truth, report.lengths.ratio) == (25, 25, 1)
    assert (found.lengths.generated, found.lengths.ratio) == (50, 2)
    assert report.splits["crowded"].lengths.ratio == 1.25
    document = render_report(report)
    assert document["lengths"] == {"generated_tokens_mean": 25, "ground_truth_tokens_mean": 25, "ratio": 1}
    table = build_summary_table(report)
    rows = dict(zip(*(map(str, column.cells) for column in table.columns[:2]), strict=True))
    assert (rows["tokens of an answer, mean"], rows["answers' length / annotated"]) == ("25.0", "1.000")
    assert (document["truncated_rate"], rows["answers truncated, share"]) == (0, "0.000")


@pytest.mark.invariant("EVAL-022")
def test_a_length_that_nobody_counted_makes_no_mean() -> None:
    _, found = measured([[*answers((), (), 40)[:1], *answers((), ())[1:]]])
    assert (found.lengths.generated, found.lengths.ground_truth, found.lengths.ratio) == (None, 25, None)


@pytest.mark.invariant("EVAL-020")
def test_each_answer_has_its_own_place_and_more_samples_move_none() -> None:
    requests = [RolloutRequest(name, (1,), (), index) for index, name in enumerate("abc")]
    four, two = build_sample_requests(requests, 4), build_sample_requests(requests, 2)
    assert [request.sample_id for request in four] == list("abc") * 4
    assert [request.index for request in four] == list(range(12))
    assert four[:6] == two


@pytest.mark.invariant("EVAL-020")
def test_samples_draw_from_the_evaluations_own_stream() -> None:
    settings = SampleSettings(2, Decoding(9, temperature=0.7, top_p=0.9))
    assert settings.seeded(17) == SampleSettings(2, Decoding(9, 0.7, 0.9, seed_base=evaluation_seed_base(17)))
    assert settings.seeded(17) != settings.seeded(18)


@pytest.mark.invariant("EVAL-021")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, 0.7, None, None), "samples is 0; it must be at least 1. Leave it out"),
        ((-3, None, None, None), "samples is -3; it must be at least 1"),
        ((2, 0.0, None, None), r"temperature is 0 with 2 samples; it must be above 0, for example 0.7: .* ask for one"),
        ((4, -1.0, None, None), "temperature is -1 with 4 samples; it must be above 0"),
        ((4, math.nan, None, None), "temperature is nan with 4 samples; it must be above 0"),
        ((4, math.inf, None, None), "temperature is inf; it must be at least 0 .* and finite"),
        ((1, -1.0, None, None), "temperature is -1.0; it must be at least 0"),
        ((2, None, None, None), "--samples needs --temperature T, above 0"),
        ((2, 0.7, 0.0, None), "top_p is 0.0; it must be above 0 and at most 1"),
        ((2, 0.7, None, 0), "top_k is 0; it must be -1 for all tokens, or at least 1"),
        ((None, 0.7, None, None), "--temperature is about sampled answers, and none are asked for: give --samples K"),
        ((None, None, 0.9, None), "--top-p is about sampled answers"),
        ((None, None, None, 5), "--top-k is about sampled answers"),
    ],
)
def test_samples_that_say_nothing_are_refused(
    given: tuple[int | None, float | None, float | None, int | None], message: str
) -> None:
    with pytest.raises((EvaluationError, RolloutError), match=message):
        read_samples(*given, 9)


@pytest.mark.invariant("EVAL-021")
def test_what_can_be_asked_for_is_taken_as_it_is() -> None:
    assert read_samples(None, None, None, None, 9) is None
    assert read_samples(3, 0.7, 0.9, 5, 9) == SampleSettings(3, Decoding(9, 0.7, 0.9, 5))
    assert read_samples(1, 0.0, None, None, 9) == SampleSettings(1, Decoding(9))
