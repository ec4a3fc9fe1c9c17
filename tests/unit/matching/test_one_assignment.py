"""There is one assignment in the tree, and evaluation's pairs come from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordexp.evaluation.matching import match_image
from coordexp.evaluation.types import Detection
from coordexp.matching.objects import match_objects
from coordexp.matching.types import Match, MatchSettings
from tests.unit.matching.reference import box

ROOT = Path(__file__).resolve().parents[3]
SOLVERS = ("linear_sum_assignment", "min_weight_full_bipartite_matching", "maximum_bipartite_matching")


@pytest.mark.invariant("MATCH-007")
def test_one_module_calls_a_solver() -> None:
    callers = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "coordexp").rglob("*.py")
        if any(solver in path.read_text(encoding="utf-8") for solver in SOLVERS)
    }
    assert callers == {"coordexp/matching/assignment.py"}


@pytest.mark.invariant("MATCH-007")
def test_evaluation_and_matching_pair_equal_boxes_alike() -> None:
    """Boxes in whole pixels of a 1000-pixel canvas are the same numbers on both sides, even in the choice of a copy."""
    predictions = [(0, 0, 100, 100), (0, 0, 100, 100), (300, 0, 400, 100), (300, 10, 400, 100)]
    truths = [(0, 0, 100, 90), (300, 0, 400, 100), (600, 0, 700, 100)]
    settings = MatchSettings(
        candidate_top_k=len(truths), maskiou_gate=0.5, maskiou_resolution=1000, fp_cost=4.0, fn_cost=4.0
    )
    trained = match_objects([box(*some) for some in predictions], [box(*some) for some in truths], settings)
    counted = match_image([Detection("cat", some) for some in truths], [Detection("cat", some) for some in predictions])
    assert counted == trained.matched
    assert [match for match in counted if match.truth == 1] == [Match(2, 1, 1.0)]
    assert len(counted) == 2
