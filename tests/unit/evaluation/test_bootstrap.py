"""The interval of a difference in mAP: each resample is COCO's own number of the images drawn. EVAL-060, EVAL-061."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp.evaluation.bootstrap import Resampling, bootstrap_difference, match_detections, mean_average_precision
from coordexp.evaluation.coco import evaluate_coco
from coordexp.evaluation.comparison import compare_answers, render_comparison
from coordexp.evaluation.report import EvaluationError
from coordexp.evaluation.types import Detection, ImagePrediction, ImageTruth

NAMES = ("cat", "dog", "crow")


def drawn(seed: int, images: int, *, constant: bool) -> tuple[list[ImageTruth], list[ImagePrediction]]:
    """Random objects, and answers that find most of them; scores are tied often, always where `constant`."""
    rng = np.random.default_rng(seed)
    truth, answers = [], []
    for number in range(images):
        objects, found = [], []
        for _ in range(rng.integers(0, 6)):
            x, y, w, h = (float(value) for value in rng.uniform((0, 0, 8, 8), (60, 60, 50, 50)))
            name = NAMES[int(rng.integers(3))]
            objects.append(Detection(name, (x, y, x + w, y + h)))
            if rng.random() < 0.8:
                shift = float(rng.normal(0, 4))
                score = 1.0 if constant else round(float(rng.random()), 1)
                found.append(Detection(name, (x + shift, y, x + w + shift, y + h), score))
        sample = f"{number:04}"
        truth.append(ImageTruth(sample, 128, 128, tuple(objects)))
        answers.append(ImagePrediction(sample, tuple(found)))
    return truth, answers


@pytest.mark.invariant("EVAL-060")
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20), constant=st.booleans())
def test_a_resample_scores_as_coco_scores_the_images_drawn(seed: int, constant: bool) -> None:
    images = 12
    truth, answers = drawn(seed, images, constant=constant)
    times = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images))
    copies = [(place, copy) for place in range(images) for copy in range(times[place])]
    names = [f"{place:04}.{copy}" for place, copy in copies]
    again = [replace(truth[place], sample_id=name) for (place, _), name in zip(copies, names, strict=True)]
    said = {name: replace(answers[place], sample_id=name) for (place, _), name in zip(copies, names, strict=True)}
    expected = evaluate_coco(again, said).summary["mAP"]
    found = mean_average_precision(match_detections(truth, answers), times)
    assert found == pytest.approx(float("nan") if expected is None else expected, abs=1e-12, nan_ok=True)


@pytest.mark.invariant("EVAL-060")
def test_the_difference_is_the_second_minus_the_first_and_one_seed_gives_the_same_digits() -> None:
    truth, answers = drawn(1, 40, constant=False)
    worse = [replace(answer, detections=answer.detections[::2]) for answer in answers]
    first, second = match_detections(truth, worse), match_detections(truth, answers)
    found = bootstrap_difference(first, second, 40, Resampling(60, 5))
    coco = [evaluate_coco(truth, {a.sample_id: a for a in said}).summary["mAP"] or 0.0 for said in (worse, answers)]
    assert found.difference == pytest.approx(coco[1] - coco[0], abs=1e-12)
    assert found.difference > 0.05
    assert found.low < found.difference < found.high
    assert found.share_above > 0.9
    assert found == bootstrap_difference(first, second, 40, Resampling(60, 5))
    assert found.low != bootstrap_difference(first, second, 40, Resampling(60, 6)).low
    mirrored = bootstrap_difference(second, first, 40, Resampling(60, 5))
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_an_interval_takes_two_resamples() -> None:
    with pytest.raises(EvaluationError, match="at least 2"):
        Resampling(1)


@pytest.mark.invariant("EVAL-061")
def test_what_only_one_finds_is_named_with_its_image_and_class() -> None:
    box, other = (10.0, 10.0, 40.0, 40.0), (60.0, 60.0, 90.0, 90.0)
    truth = [
        ImageTruth("a", 128, 128, (Detection("cat", box), Detection("dog", other))),
        ImageTruth("b", 128, 128, (Detection("cat", other),)),
    ]
    first = [ImagePrediction("a", (Detection("cat", box),)), ImagePrediction("b", (Detection("cat", other),))]
    second = [ImagePrediction("a", (Detection("cat", box), Detection("dog", other))), ImagePrediction("b", ())]
    comparison = compare_answers(truth, first, second, Resampling(10))
    assert [(one.image, one.truth.desc, one.by_second) for one in comparison.found_once] == [
        (0, "dog", True),
        (1, "cat", False),
    ]
    rows = {row.desc: (row.objects, row.only_first, row.only_second, row.difference) for row in comparison.classes}
    assert rows["dog"] == (1, 0, 1, pytest.approx(1.0))
    assert rows["cat"][:3] == (2, 1, 0)
    assert [row.desc for row in comparison.classes] == ["dog", "cat"]
    document = render_comparison(comparison)
    assert (document["only_first"], document["only_second"], document["images"]) == (1, 1, 2)


def test_images_without_any_object_have_no_difference() -> None:
    truth, answers = [ImageTruth("a", 64, 64, ())], [ImagePrediction("a", ())]
    document = render_comparison(compare_answers(truth, answers, answers, Resampling(5)))
    assert document["mAP_difference"] == {
        "value": None, "low": None, "high": None, "share_above": None, "resamples": 0
    }  # fmt: skip
