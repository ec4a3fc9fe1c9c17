"""A whole JSONL file judged at once: every problem with file:line, and what the file holds.

Contract ids: DATA-003, DATA-020, DATA-060.
Enters: a path and how far to look at images. Leaves: a `FileSurvey`; nothing raises for a bad record. A record is in
order when it passes its contract and its image has a size that the processor takes as it is.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from msgspec import UNSET

from coordexp.data.errors import Finding, RecordError, RecordProblem
from coordexp.data.image_sizes import size_finding
from coordexp.data.paths import OutsideRootError, resolve_image
from coordexp.data.pictures import PictureError, check_header, read_picture
from coordexp.data.records import build_record, check_line, iter_lines, told_of_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from coordexp.data.types import Record
    from coordexp.data.wire import WireRecord

ImageCheck = Literal["none", "exists", "headers", "open"]
"""How far to look at images: not, whether they are there, what their headers say, or all of their pixels."""


@dataclass(slots=True)
class FileSurvey:
    """Counts over the lines of one file; `problems` in file order. Bad records count as lines, never as records.

    `kept` has the records themselves, in file order, where they were asked for.
    """

    path: Path
    lines: int = 0
    records: int = 0
    empty: int = 0
    objects: int = 0
    most_objects: int = 0
    polygons: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    problems: list[RecordProblem] = field(default_factory=list)
    kept: list[Record] = field(default_factory=list)

    def add(self, record: WireRecord) -> None:
        """Count a record that is in order."""
        count = len(record.objects)
        self.records += 1
        self.empty += count == 0
        self.objects += count
        self.most_objects = max(self.most_objects, count)
        self.polygons += sum([found.poly is not UNSET for found in record.objects])
        self.sizes[record.width, record.height] += 1


def survey_file(
    path: Path,
    *,
    images: ImageCheck = "none",
    root: Path | None = None,
    keep: bool = False,
    on_line: Callable[[], None] = lambda: None,
) -> FileSurvey:
    """Validate each line of `path`, and its images as far as asked; `keep` holds on to the records.

    Raises `DataError` only for an unreadable file.
    """
    survey = FileSurvey(path)
    absolute = path.absolute()
    for number, line in iter_lines(path):
        survey.lines += 1
        where = f"{path}:{number}"
        try:
            record = check_line(line, where)
        except RecordError as error:
            problems = told_of_file(error, path, number)
            survey.problems.extend(problems)
            if problems != error.problems:
                return survey
        else:
            size = size_finding(record.images[0], (record.width, record.height))
            if size is not None:
                survey.problems.append(RecordProblem(where, size))
            else:
                survey.add(record)
                if keep:
                    survey.kept.append(build_record(record, f"{absolute}:{number}"))
            # The file of a size that is wrong in itself need not be held against it.
            look = images if size is None or images in ("none", "open") else "exists"
            if look != "none":
                survey.problems.extend(
                    RecordProblem(where, found) for found in _image_findings(record, path, look, root)
                )
        on_line()
    if not survey.lines:
        survey.problems.append(
            RecordProblem(str(path), Finding("no_records", "", "the file holds no records", "Write at least one."))
        )
    return survey


def _image_findings(record: WireRecord, path: Path, images: ImageCheck, root: Path | None) -> Iterator[Finding]:
    for index, image in enumerate(record.images):
        at = f"images[{index}]"
        try:
            found = resolve_image(path, image, root)
        except OutsideRootError as error:
            yield Finding("image_outside_root", at, error.fault, f"{error.remedy[:1].upper()}{error.remedy[1:]}.")
            continue
        # Unlike Path.is_file, which raises for a name that is too long.
        if not os.path.isfile(found):
            words = "is a folder or a device, and no file" if os.path.exists(found) else "does not exist"
            remedy = "Paths start from the JSONL's folder, --root or ROOT_IMAGE_DIR."
            yield Finding("image_missing", at, f"{found} {words}", remedy)
        elif images in ("headers", "open"):
            yield from _content_findings(found, record, at, whole=images == "open")


def _content_findings(found: Path, record: WireRecord, at: str, *, whole: bool) -> Iterator[Finding]:
    look = read_picture if whole else check_header
    try:
        look(found, (record.width, record.height))
    except PictureError as error:
        yield Finding(error.reason, at, error.fault, f"{error.remedy}.")
