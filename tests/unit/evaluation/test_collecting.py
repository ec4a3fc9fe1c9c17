"""Scoring leaves Python's search for cycles as it found it."""

from __future__ import annotations

import gc

import pytest

from coordexp.evaluation.collecting import without_collecting
from coordexp.evaluation.report import EvaluationError, evaluate_detections
from coordexp.evaluation.types import ImagePrediction, ImageTruth


@pytest.mark.invariant("EVAL-093")
def test_the_search_goes_on_after_scoring_and_after_an_error() -> None:
    seen = []

    def coco(*_: object) -> None:
        seen.append(gc.isenabled())
        raise EvaluationError("no numbers")

    assert gc.isenabled()
    with pytest.raises(EvaluationError, match="no numbers"):
        evaluate_detections([ImageTruth("a", 9, 9, ())], [ImagePrediction("a", ())], coco=coco)  # type: ignore[arg-type]
    assert seen == [False] and gc.isenabled()
    evaluate_detections([ImageTruth("a", 9, 9, ())], [ImagePrediction("a", ())])
    assert gc.isenabled()


@pytest.mark.invariant("EVAL-093")
def test_who_has_switched_it_off_keeps_it_off() -> None:
    gc.disable()
    try:
        with without_collecting(), without_collecting():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
