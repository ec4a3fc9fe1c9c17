"""The images of two sets of records in, those that both hold out, by what is in the files. Contract ids: DATA-061.

An image that is trained on and validated on makes the validation say more than is true. Names prove nothing: the same
photograph is often there under two of them. A file is read only where another file of its size lies on the other side.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from coordexp.data.errors import DataError
from coordexp.data.paths import resolve_image

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
    for source, path, _ in here:
        named.setdefault(path, source)
    # A file that both sides name needs no reading, nor does one that none of the other side can be equal to.
    wanted = {key for _, _, key in here}
    keys = {key for _, path, key in there if path not in named}
    known: dict[bytes | None, str] = {}
    for source, path, key in here:
        if key in keys:
            known.setdefault(reader.of(path), source)
    known.pop(None, None)
    pairs = []
    for source, path, key in there:
        other = named.get(path)
        if other is None and key in wanted:
            other = known.get(reader.of(path))
        if other is not None:
            pairs.append((source, other))
    total = len({record.source for record in second.records})
    return SharedImages(len(pairs), total, tuple(pairs[:EXAMPLES]))


@dataclass(slots=True)
class _Contents:
    """What is in files, each read once; None for one that cannot be read."""

    digest: Callable[[Path], bytes]
    known: dict[Path, bytes | None] = field(default_factory=dict)

    def of(self, path: Path) -> bytes | None:
        if path not in self.known:
            try:
                self.known[path] = self.digest(path)
            except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
                self.known[path] = None
        return self.known[path]


def _files(side: ImageSet, decoded: bool) -> Iterable[tuple[str, Path, Hashable]]:
    """Source, path and what equal images have in common: the size of the file, or of the picture."""
    seen: set[str] = set()
    for record in side.records:
        if record.source in seen:
            continue
        seen.add(record.source)
        try:
            path = resolve_image(record.source, record.images[0], side.root)
            key: Hashable = (record.width, record.height) if decoded else path.stat().st_size
        except (DataError, OSError):
            continue
        yield record.source, path, key


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _pixel_digest(path: Path) -> bytes:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()
