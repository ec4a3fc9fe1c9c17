"""A run's records in; out one error with all that training would refuse them for, or what is doubtful about them.

Contract ids: TRAIN-075, TRAIN-076. Asked by the dry run and by training alike, once the tokenizer is there and before
any weight is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.data.errors import RecordError
from coordexp.data.reports import progress
from coordexp.data.shared_images import ImageSet, SharedImages, find_shared_images
from coordexp.encode.record_check import find_refusals
from coordexp.training.ranks import is_first_rank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordexp.data.run_inputs import Role, RunSamples
    from coordexp.encode.encoder import Encoder


def check_records(samples: Mapping[Role, RunSamples], encoder: Encoder, *, boxes_only: bool) -> None:
    """Raise `RecordError` with everything that is wrong with the run's files, and with the records that it uses."""
    problems = [problem for part in samples.values() for problem in part.survey.problems]
    with progress("checking", "records", sum(len(part.records) for part in samples.values())) as advance:
        for part in samples.values():
            problems += find_refusals(encoder, part.records, boxes_only=boxes_only, on_record=advance)
    if problems:
        raise RecordError(problems)


def shared_images(samples: Mapping[Role, RunSamples]) -> SharedImages | None:
    """The images that the run both trains and validates on, looked for by the first rank; None without a validation,
    and on the other ranks.
    """
    if "val" not in samples or not is_first_rank():
        return None
    train, val = (ImageSet(samples[role].records, samples[role].file.image_root) for role in ("train", "val"))
    return find_shared_images(train, val)
