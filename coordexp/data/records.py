"""JSONL to records, strictly: each line passes the record contract or raises with file:line.

Contract ids: DATA-003..DATA-006.
Enters: a path. Leaves: `Record`s in file order with geometry in bins, point and object order as written. Nothing is
dropped, repaired or reordered here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from msgspec import UNSET

from coordexp.coords.codec import pixel_to_bin
from coordexp.coords.types import CoordObject
from coordexp.data.errors import DataError, Finding, RecordError, RecordProblem
from coordexp.data.record_files import file_finding
from coordexp.data.rules import find_problems
from coordexp.data.types import Record
from coordexp.data.wire import BinObject, PixelObject, PixelRecord, WireRecord, decode_line

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_records(path: Path | str) -> list[Record]:
    """All records of a JSONL file.

    Raises `RecordError` at the first bad line, `DataError` for an unreadable or empty file.
    """
    records = list(iter_records(path))
    if not records:
        raise DataError(f"{path}: the file holds no records; write at least one line")
    return records


def iter_records(path: Path | str) -> Iterator[Record]:
    """Records of a JSONL file in file order; raises `RecordError` at the first bad line."""
    absolute = Path(path).absolute()
    for number, line in iter_lines(path):
        try:
            record = parse_record(line, f"{absolute}:{number}")
        except RecordError as error:
            raise RecordError(told_of_file(error, absolute, number)) from error
        yield record


def told_of_file(error: RecordError, path: Path, number: int) -> tuple[RecordProblem, ...]:
    """Problems of a line, or the one of the file where the first line shows that it is no JSONL at all."""
    finding = file_finding(path) if number == 1 else None
    return error.problems if finding is None else (RecordProblem(str(path), finding),)


def iter_lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """Line numbers from 1 and lines without their newline. Raises `DataError` when the file cannot be read."""
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(stream, 1):
                yield number, line.rstrip(b"\r\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a JSONL file of records") from error


def parse_record(line: bytes, source: str) -> Record:
    """One line as a record with the given `file:line`; raises `RecordError` with every problem of the line."""
    return build_record(check_line(line, source), source)


def check_line(line: bytes, source: str) -> WireRecord:
    """One line decoded and checked, geometry as it is written; raises `RecordError` with every problem of the line."""
    wire = decode_line(line)
    if wire is None:
        findings = find_problems(line)
        if findings:
            raise RecordError([RecordProblem(source, finding) for finding in findings])
        wire = decode_line(line, keys_are_unique=True)
    if wire is None:
        limits = Finding(
            "invalid_json", "", "the JSON is beyond what the decoder reads", "Use plain, finite numbers and text."
        )
        raise RecordError([RecordProblem(source, limits)])
    return wire


def build_record(wire: WireRecord, source: str) -> Record:
    """A checked line as a `Record`: pixels become bins, nothing else changes."""
    extents = (wire.width, wire.height) if isinstance(wire, PixelRecord) else None
    return Record(
        source=source,
        images=wire.images,
        width=wire.width,
        height=wire.height,
        objects=tuple([_coord_object(found, extents) for found in wire.objects]),
        summary=None if wire.summary is UNSET else wire.summary,
        metadata={} if wire.metadata is UNSET else wire.metadata,
    )


def _coord_object(found: BinObject | PixelObject, extents: tuple[int, int] | None) -> CoordObject:
    box = found.bbox_2d
    values = cast("tuple[Any, ...]", found.poly if box is UNSET else box)
    if extents is not None:
        values = tuple(pixel_to_bin(value, extents[axis % 2]) for axis, value in enumerate(values))
    return CoordObject(found.desc, "poly" if box is UNSET else "bbox_2d", values)
