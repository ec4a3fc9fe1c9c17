"""Recall at K: which annotated objects greedy and sampled answers find. Contract id: EVAL-016.

An object that greedy decoding misses and a sample finds was seen and not said; one that no answer finds was not seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.evaluation.lengths import measure_lengths
from coordexp.evaluation.matching import match_image
from coordexp.evaluation.types import Detection, SampledRecall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordexp.evaluation.types import Box, ImagePrediction, ImageTruth


def measure_samples(
    truth: Sequence[ImageTruth], greedy: Mapping[str, ImagePrediction], samples: Sequence[Mapping[str, ImagePrediction]]
) -> SampledRecall:
    """Count what the greedy answers find, each sample alone, and the first samples together.

    `greedy` and each of `samples` hold an answer for every image of `truth`, by sample id; one sample or more.
    """
    said = _found(truth, greedy)
    each = [_found(truth, sample) for sample in samples]
    together, union = [], set[tuple[str, int]]()
    for found in each:
        union |= found
        together.append(len(union))
    drawn = [sample[image.sample_id] for sample in samples for image in truth]
    return SampledRecall(
        objects=sum(len(image.objects) for image in truth),
        greedy=len(said),
        found=tuple(len(found) for found in each),
        found_together=tuple(together),
        seen_not_said=len(union - said),
        not_seen=sum(len(image.objects) for image in truth) - len(union | said),
        answers=len(drawn),
        parsed=sum(answer.parse.strict for answer in drawn),
        truncated=sum(answer.parse.truncated for answer in drawn),
        lengths=measure_lengths(truth, drawn),
    )


def _found(truth: Sequence[ImageTruth], answers: Mapping[str, ImagePrediction]) -> set[tuple[str, int]]:
    """Sample id and number of every matched object.

    Objects and predictions are sorted by content: where several assignments are equally good, the one that is taken
    must not depend on the order of a file, or the union would.
    """
    return {
        (image.sample_id, match.truth)
        for image in truth
        for match in match_image(
            sorted(image.objects, key=_content), sorted(answers[image.sample_id].detections, key=_content)
        )
    }


def _content(detection: Detection) -> tuple[str, Box]:
    return detection.desc, detection.box
