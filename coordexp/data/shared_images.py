"""The images of two sets of records in, those that both hold out, by what is in the files. Contract ids: DATA-061.

An image that is trained on and validated on makes the validation say more than is true. Names prove nothing: the same
photograph is often there under two of them. A file is read only where another file of its size lies on the other side.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordexp.data.errors import DataError
from coordexp.data.paths import resolve_image
from coordexp.data.pictures import PictureError, read_picture

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence
    from pathlib import Path

    from coordexp.data.types import Record

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class SharedImages:
    """`count` of `total` records of the second set have an image that the first set has too; `examples` are the first
    of them, each with the record of the first set that has it (`file:line`).
    """

    count: int
    total: int
    examples: tuple[tuple[str, str], ...] = ()

    def render(self, first: str, second: str) -> str:
        """One line for a person."""
        pairs = ", ".join(f"{there} = {here}" for there, here in self.examples)
        more = ", …" if self.count > len(self.examples) else ""
        text = f"{self.count} of {self.total} records of {second} have an image of {first}, by content ({pairs}{more})"
        return f"{text}; what is measured on them says nothing of images that were not trained on: take them out of one"

    def document(self) -> dict[str, Any]:
        """For the run manifest."""
        pairs = [{"train": here, "val": there} for there, here in self.examples]
        return {"count": self.count, "total": self.total, "examples": pairs}


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Records, and the folder that the paths of their images start from."""

    records: Sequence[Record]
    root: Path | None = None


def find_shared_images(first: ImageSet, second: ImageSet, *, decoded: bool = False) -> SharedImages:
    """The images of `second` that `first` has too: equal bytes or, with `decoded`, equal pixels.

    Images that cannot be read are in neither: others say what is wrong with them.
    """
    reader = _Contents(_pixel_digest if decoded else _file_digest)
    here, there = ([*_files(side, decoded)] for side in (first, second))
    named: dict[Path, str] = {}
    for file in here:
        named.setdefault(file.path, file.source)
    # A file that both sides name needs no reading, nor does one that none of the other side can be equal to.
    wanted = {file.key for file in here}
    keys = {file.key for file in there if file.path not in named}
    known: dict[bytes | None, str] = {}
    for file in here:
        if file.key in keys:
            known.setdefault(reader.of(file), file.source)
    known.pop(None, None)
    pairs = []
    for file in there:
        other = named.get(file.path)
        if other is None and file.key in wanted:
            other = known.get(reader.of(file))
        if other is not None:
            pairs.append((file.source, other))
    total = len({record.source for record in second.records})
    return SharedImages(len(pairs), total, tuple(pairs[:EXAMPLES]))


@dataclass(frozen=True, slots=True)
class _File:
    """The image of the record at `source`. Equal images have the same `key`: the bytes of the file, or the size."""

    source: str
    path: Path
    size: tuple[int, int]
    key: Hashable


@dataclass(slots=True)
class _Contents:
    """What is in files, each read once; None for one that cannot be read."""

    digest: Callable[[_File], bytes]
    known: dict[Path, bytes | None] = field(default_factory=dict)

    def of(self, file: _File) -> bytes | None:
        if file.path not in self.known:
            try:
                self.known[file.path] = self.digest(file)
            except (PictureError, OSError):
                self.known[file.path] = None
        return self.known[file.path]


def _files(side: ImageSet, decoded: bool) -> Iterable[_File]:
    """The images of a side that are there, one for each record."""
    for record in {record.source: record for record in side.records}.values():
        size = (record.width, record.height)
        try:
            path = resolve_image(record.source, record.images[0], side.root)
            yield _File(record.source, path, size, size if decoded else path.stat().st_size)
        except (DataError, OSError):
            continue


def _file_digest(file: _File) -> bytes:
    with file.path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _pixel_digest(file: _File) -> bytes:
    return hashlib.sha256(read_picture(file.path, file.size).image.tobytes()).digest()
