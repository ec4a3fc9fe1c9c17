"""Records in, every reason why training would refuse one out, before a weight is loaded.

Contract ids: ENC-030, ENC-031.

`check_data`, the dry run and the start of training ask `find_refusals`, and the encoder raises the same findings, so
all say the same. Images are not opened here: `coordexp.data.survey` looks at files as far as it is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.data.errors import Finding, RecordError, RecordProblem
from coordexp.data.texts import DescFault, desc_fault
from coordexp.encode.images import count_image_tokens, image_size_finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from coordexp.coords.types import CoordObject
    from coordexp.data.types import Record
    from coordexp.encode.encoder import Encoder

UNSPELLED = Finding(
    "answer_not_spelled",
    "objects",
    "the tokenizer does not spell the answer back, so another text than the record's would be taught",
    "Write every desc in Unicode form NFC (unicodedata.normalize('NFC', desc)).",
)
_SEEN_LIMIT = 100_000


class DescCheck:
    """Judges descs, each text once: by the record contract, and by the added tokens of one tokenizer."""

    def __init__(self, added: Sequence[str]) -> None:
        self._added = tuple(added)
        self._known: dict[str, DescFault | None] = {}

    def fault(self, desc: str) -> DescFault | None:
        """What is wrong with a desc."""
        if desc in self._known:
            return self._known[desc]
        fault = desc_fault(desc) or self._held(desc)
        if len(self._known) < _SEEN_LIMIT:
            self._known[desc] = fault
        return fault

    def findings(self, objects: Sequence[CoordObject]) -> Iterator[Finding]:
        """What is wrong with the descs of a record."""
        for index, item in enumerate(objects):
            fault = self.fault(item.desc)
            if fault is not None:
                yield Finding(fault.rule, f"objects[{index}].desc", fault.message, fault.remedy)

    def _held(self, desc: str) -> DescFault | None:
        held = next((token for token in self._added if token in desc), None)
        if held is None:
            return None
        message = f"desc {desc!r} holds {held!r}, which is no text but a token of its own to this tokenizer"
        return DescFault("desc_special_token", message, "Write it without: rename the object.")


def length_finding(record: Record, length: int, limit: int) -> Finding | None:
    """Whether a record's sample of `length` tokens is longer than a row of `limit`."""
    if length <= limit:
        return None
    message = f"{length} tokens ({len(record.objects)} objects, {count_image_tokens(record)} vision tokens) exceed "
    message += f"global_max_length = {limit}; nothing is truncated"
    return Finding("sample_length", "", message, "Raise the key, or cook with fewer objects or smaller images.")


def polygon_findings(record: Record) -> Iterator[Finding]:
    """The polygons of a record: both trainers of stage 2 know boxes alone."""
    for index, item in enumerate(record.objects):
        if item.kind != "bbox_2d":
            yield Finding(
                "stage2_boxes_only",
                f"objects[{index}].{item.kind}",
                "stage 2 trains on boxes alone, and this object is a polygon",
                "Cook the annotations with boxes, or leave the record out.",
            )


def find_refusals(
    encoder: Encoder, records: Sequence[Record], *, boxes_only: bool, on_record: Callable[[], None] = lambda: None
) -> list[RecordProblem]:
    """Every reason for which training would refuse one of the records, in their order; a record that is there several
    times is judged once.
    """
    unique = list({record.source: record for record in records}.values())
    problems = []
    for record, answer in zip(unique, encoder.lengths.count_all(unique), strict=True):
        found = [*_record_findings(encoder, record, answer), *(polygon_findings(record) if boxes_only else ())]
        problems += [RecordProblem(record.source, finding) for finding in found]
        on_record()
    return problems


def check_images(encoder: Encoder, records: Sequence[Record]) -> None:
    """Raise `RecordError` with those of these reasons that a generation has too: it is asked of an image, and teaches
    no answer.
    """
    found = ((record, image_size_finding(record, encoder.settings.max_pixels)) for record in records)
    if problems := [RecordProblem(record.source, finding) for record, finding in found if finding is not None]:
        raise RecordError(problems)


def _record_findings(encoder: Encoder, record: Record, answer: int) -> Iterator[Finding]:
    size = image_size_finding(record, encoder.settings.max_pixels)
    descs = list(encoder.descs.findings(record.objects))
    if size is not None:
        yield size
    yield from descs
    if not descs and not encoder.lengths.spells(record.objects):
        yield UNSPELLED
    length = length_finding(record, encoder.sample_length(record, answer), encoder.settings.max_length)
    if length is not None:
        yield length
