"""How long answers are beside the annotated ones, in tokens. Contract id: EVAL-022.

Both are counted with their end token, so that a right answer has exactly the length of the annotated one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.evaluation.types import AnswerLengths, ImagePrediction, ImageTruth

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


def measure_lengths(truth: Collection[ImageTruth], answers: Collection[ImagePrediction]) -> AnswerLengths:
    """Mean lengths of `answers` and of the annotated answers; None over nothing, or where any length is unknown."""
    return AnswerLengths(
        _mean(answer.generated_tokens for answer in answers), _mean(image.answer_tokens for image in truth)
    )


def _mean(lengths: Iterable[int | None]) -> float | None:
    total, count = 0, 0
    for length in lengths:
        if length is None:
            return None
        total, count = total + length, count + 1
    return total / count if count else None
