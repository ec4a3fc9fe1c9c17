"""What a file is that is neither JSON nor JSON Lines: an archive, another encoding, XML, a table.

Its first bytes enter; out: what it is and what to do, or None where it may be JSON. Contract ids: DATA-040, DATA-095.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

UTF8_BOM = b"\xef\xbb\xbf"
_BOMS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_ZERO_PATTERNS = {
    (False, True, True, True): "UTF-32 without a BOM",
    (True, True, True, False): "UTF-32 without a BOM",
    (False, True, False, True): "UTF-16 without a BOM",
    (True, False, True, False): "UTF-16 without a BOM",
}
_MAGICS = (
    (b"\x1f\x8b", "a gzip archive", "Unpack it: gunzip -k"),
    (b"PK\x03\x04", "a zip archive", "Unpack it and name {file} in it"),
    (b"BZh", "a bzip2 archive", "Unpack it: bunzip2 -k"),
    (b"\xfd7zXZ\x00", "an xz archive", "Unpack it: unxz -k"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "Unpack it: unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it and name {file} in it"),
    (b"Rar!", "a rar archive", "Unpack it and name {file} in it"),
    (b"PAR1", "a Parquet file", "Convert it to {form}"),
    (b"SQLite format 3", "an SQLite database", "Convert it to {form}"),
    (b"\x89HDF", "an HDF5 or MATLAB file", "Convert it to {form}"),
    (b"\x93NUMPY", "a NumPy array", "Convert it to {form}"),
    (b"\xd0\xcf\x11\xe0", "a document of an older Excel or Word", "Convert it to {form}"),
    (b"\x80\x04", "a Python pickle", "Convert it to {form}"),
    (b"\x89PNG", "a PNG image", "Name {file}"),
    (b"\xff\xd8\xff", "a JPEG image", "Name {file}"),
    (b"%PDF", "a PDF", "Name {file}"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "Fetch the file: git lfs pull"),
)
_SAVE = "save the file as UTF-8"
_TAR_MARK, _TAR_MARK_AT = b"ustar", 257
_YOLO_LINE = re.compile(rb"\s*\d+(?:\s+-?\d*\.?\d+(?:[eE]-?\d+)?){4,}\s*(?:\n|\r|\Z)")
_CSV_LINE = re.compile(rb"[^\n{}\[\]]*(?:[,;\t][^\n{}\[\],;\t]*){3,}(?:\n|\r|\Z)")
_QUOTED_CELL = re.compile(rb'"(?:[^"\n]|"")*"[ \t]*[,;\t]')
"""A text and a separator: how a table begins, and no JSON value."""
NOT_UTF8 = "which is not UTF-8 (Latin-1 or Windows-1252 perhaps)"


@dataclass(frozen=True, slots=True)
class FileWords:
    """How advice speaks of what is wanted: the `file` to name, and the `form` to convert to."""

    file: str
    form: str


Foreign = tuple[str, str]
"""What a file is or has, and what to do."""


def foreign_file(body: bytes, words: FileWords) -> Foreign | None:
    """An archive, an image or another binary file, by its first bytes."""
    for magic, what, remedy in _MAGICS:
        if body.startswith(magic):
            return what, remedy.format(file=words.file, form=words.form)
    if body[_TAR_MARK_AT : _TAR_MARK_AT + len(_TAR_MARK)] == _TAR_MARK:
        return "a tar archive", f"Unpack it and name {words.file} in it"
    return None


def encoding_fault(body: bytes) -> Foreign | None:
    """UTF-16, UTF-32 or zero bytes, by the first four."""
    for mark, name in _BOMS:
        if body.startswith(mark):
            return f"it is {name}; JSON is UTF-8", _SAVE
    head = body[:4]
    if b"\0" not in head:
        return None
    pattern = tuple(byte == 0 for byte in head)
    found = _ZERO_PATTERNS.get((pattern + (False,) * 4)[:4])  # type: ignore[arg-type]
    if found:
        return f"it is {found}; JSON is UTF-8", _SAVE
    return "it begins with zero bytes: it is damaged", "write the file as UTF-8"


def foreign_text(body: bytes, words: FileWords) -> Foreign | None:
    """A text of another form than JSON."""
    body = body.lstrip()
    what = ""
    if body.startswith(b"<"):
        what = "an HTML page, perhaps that of a failed download" if b"<html" in body[:2000].lower() else "XML"
        what += ", as Pascal VOC writes it for one image" if b"<annotation" in body[:2000] else ""
    elif _YOLO_LINE.match(body):
        what = "lines of numbers, as YOLO writes them for one image"
    elif _QUOTED_CELL.match(body) or (body[:1] not in b'{["' and _CSV_LINE.match(body)):
        what = "a table of separated values (CSV)"
    return (what, f"Convert it to {words.form}") if what else None
