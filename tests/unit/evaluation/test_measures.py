"""What is counted without scores, by hand. Contract id: EVAL-086."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp.evaluation.matching import match_pairs
from coordexp.evaluation.measures import matched_rows
from coordexp.evaluation.report import evaluate_detections, render_report
from coordexp.evaluation.types import THRESHOLDS, Detection, ImagePrediction, ImageTruth


def report(objects, found, *, size=(100, 100)):
    truth = ImageTruth("a", *size, tuple(Detection(name, box) for name, box in objects))
    return evaluate_detections([truth], [ImagePrediction("a", tuple(Detection(name, box) for name, box in found))])


@pytest.mark.invariant("EVAL-086")
def test_f1_falls_with_the_iou_that_is_asked_for():
    """IoUs of 1.0 and 0.72: both match up to 0.70, one above."""
    outcome = report(
        [("cat", (0, 0, 50, 50)), ("dog", (0, 0, 100, 10))], [("cat", (0, 0, 50, 50)), ("dog", (0, 0, 72, 10))]
    )
    hits = [counts.true_positives for counts in outcome.measures.by_iou]
    assert hits == [2, 2, 2, 2, 2, 1, 1, 1, 1, 1]
    assert THRESHOLDS[4] == 0.7
    assert outcome.detection.f1 == 1.0
    assert outcome.measures.f1_strict == 0.5
    assert outcome.measures.f1_mean == pytest.approx(0.75)
    document = render_report(outcome)
    assert document["measures"]["F1@mIoU"] == pytest.approx(0.75)
    assert document["per_class"]["cat"]["F1@0.95"] == 1.0
    assert document["per_class"]["dog"]["F1@0.95"] == 0.0
    assert document["per_class"]["dog"]["F1@mIoU"] == pytest.approx(0.5)


@pytest.mark.invariant("EVAL-086")
def test_boxes_that_repeat_and_boxes_of_the_image_s_size_are_counted():
    outcome = report(
        [("cat", (0, 0, 50, 50))],
        [
            ("cat", (0, 0, 50, 50)),
            ("cat", (0, 0, 50, 49)),  # IoU 0.98 with the first
            ("dog", (0, 0, 50, 50)),  # the same box under another name repeats nothing
            ("cat", (0, 0, 50, 40)),  # IoU 0.8 with the first, 0.82 with the second
            ("dog", (7, 7, 7, 7)),
            ("dog", (7, 7, 7, 7)),  # no area, and equal
            ("cow", (0, 0, 100, 95)),  # 95% of the image
            ("cow", (0, 0, 100, 94)),  # nearly repeats it, and is smaller
        ],
    )
    measures = outcome.measures
    assert (measures.near_duplicates, measures.image_size_boxes, measures.predicted) == (3, 1, 8)
    assert measures.near_duplicate_rate == pytest.approx(3 / 8)
    assert measures.image_size_rate == pytest.approx(1 / 8)
    assert render_report(outcome)["per_class"]["cat"]["near_duplicates"] == 1


@pytest.mark.invariant("EVAL-086")
def test_without_predictions_and_objects_nothing_is_a_number():
    measures = report([], []).measures
    assert (measures.f1_mean, measures.near_duplicate_rate, measures.image_size_rate) == (None, None, None)
    assert report([("cat", (0, 0, 9, 9))], []).measures.f1_mean == 0.0


@pytest.mark.invariant("EVAL-086")
@settings(max_examples=300)
@given(st.data())
def test_every_iou_is_matched_as_if_it_were_asked_for_alone(data):
    """Matrices in which some have a choice at every threshold, some at the low ones, and some at none."""
    shape = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    values = st.sampled_from([-1.0, 0.2, 0.5, 0.55, 0.6, 0.75, 0.9, 0.95, 1.0])
    iou = np.array(data.draw(st.lists(values, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])))
    iou = iou.reshape(shape)
    alone = [sorted(row for row, _ in match_pairs(iou, threshold)) for threshold in THRESHOLDS]
    assert [sorted(rows) for rows in matched_rows(iou)] == alone
