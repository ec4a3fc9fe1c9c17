"""What a file is that no picture could be read from: its bytes in, a name and a remedy out. Contract ids: DATA-032.

Nothing is decoded here. Whether a file ends early is read off its own structure, because decoders say "truncated" of
many faults and of some truncated files something else.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, TiffImagePlugin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AGAIN = "Fetch or copy the file again, or leave it out"
_PNG = b"\x89PNG\r\n\x1a\n"
_PICTURES = {
    "PNG": (_PNG,),
    "JPEG": (b"\xff\xd8\xff",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "JPEG2000": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    "PSD": (b"8BPS",),
    "BMP": (b"BM",),
}
"""Formats that are read, by what their files begin with; WebP and AVIF say it later."""
_OTHERS = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"\x1a\x45\xdf\xa3", "a video"),
)
_COMPANION = b"\0\x05\x16\x07"
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_MARKUP = ((b"<!doctype html", "an HTML page"), (b"<html", "an HTML page"), (b"<svg", "an SVG drawing"))
_SHOWN = 40
_BITS, _STARTS, _LENGTHS = 258, (273, 324), (279, 325)
"""TIFF's tags: bits a channel; where strips, or tiles, begin; how long they are."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """`what` the file is, in words after "is", and what to do about it; `format` where it is one that is read."""

    what: str
    remedy: str = AGAIN
    format: str | None = None


def file_kind(content: bytes) -> FileKind:
    """What a file with this content is, by how it begins."""
    if not content:
        return FileKind("an empty file")
    if not content.strip(b"\0"):
        return FileKind("a file of zero bytes alone, as a download leaves it that did not finish")
    picture = _picture_format(content)
    if picture is not None:
        return FileKind(f"a {picture} file", format=picture)
    if content[4:8] == b"ftyp":
        if content[8:12] in _HEIC:
            remedy = "Convert it to JPEG or PNG, such as with `heif-convert IN OUT.jpg`, at the size that is declared"
            return FileKind("an HEIC picture, which is not read", remedy)
        return FileKind("a video")
    if content.startswith(_COMPANION):
        what = "what macOS keeps beside another file, under its name with ._ before it, and no picture"
        return FileKind(what, "Delete it, and name the picture itself, without ._")
    for start, what in _OTHERS:
        if content.startswith(start):
            return FileKind(what, "Convert it to PNG or JPEG, or leave it out")
    return _text_kind(content) or FileKind(f"no picture; it begins with the bytes {content[:8].hex(' ')}")


def _picture_format(content: bytes) -> str | None:
    if b"RIFF".startswith(content[:4]) and b"WEBP".startswith(content[8:12]):
        return "WEBP"
    if content[4:8] == b"ftyp" and content[8:12] in (b"avif", b"avis"):
        return "AVIF"
    if re.match(rb"P[1-6]\s", content):
        return "PPM"
    for name, starts in _PICTURES.items():
        # A file may be cut within its first bytes.
        if any(content.startswith(start) or start.startswith(content) for start in starts):
            return name
    return None


def _text_kind(content: bytes) -> FileKind | None:
    head = content[:1024]
    try:
        # The cut may have split a character.
        text = head.decode("utf-8", errors="strict" if len(content) <= len(head) else "ignore").lstrip("\ufeff")
    except UnicodeDecodeError:
        return None
    if any(ord(character) < 32 and character not in "\t\n\r\f" for character in text):
        return None
    if head.startswith(b"version https://git-lfs"):
        return FileKind("a Git LFS pointer and not the picture", "Run `git lfs pull` where the files were cloned")
    for start, what in _MARKUP:
        if start in head.lower():
            return FileKind(what)
    return FileKind(f"text and no picture; it begins {text.strip()[:_SHOWN]!r}")


def ends_early(content: bytes, name: str | None, said: str) -> bool:
    """Whether the file of format `name` lacks its end: by its structure, else by what the decoder `said`."""
    try:
        structure = _STRUCTURES[name](content) if name in _STRUCTURES else None
    except (struct.error, IndexError):
        return True
    if structure is not None:
        return structure
    return re.search(r"truncat|\bEOF\b|not enough|end of file|Incomplete header|but only got", said, re.I) is not None


def _png_ends(content: bytes) -> bool:
    at = len(_PNG)
    while True:
        length, kind = struct.unpack_from(">I4s", content, at)
        if not kind.isalpha():
            return False
        at += 12 + length
        if at > len(content):
            return True
        if kind == b"IEND":
            return False


def _jpeg_ends(content: bytes) -> bool:
    return not content.rstrip(b"\0").endswith(b"\xff\xd9")


def _gif_ends(content: bytes) -> bool:
    return not content.rstrip(b"\0").endswith(b";")


def _bmp_ends(content: bytes) -> bool | None:
    return True if struct.unpack_from("<I", content, 2)[0] > len(content) else None


def _webp_ends(content: bytes) -> bool:
    return struct.unpack_from("<I", content, 4)[0] + 8 > len(content)


def _box_ends(content: bytes) -> bool | None:
    """Boxes of a size and a name, one after the other: JPEG 2000 and AVIF."""
    if content.startswith(b"\xff\x4f"):
        return _jpeg_ends(content)
    at = 0
    while at < len(content):
        (size,) = struct.unpack_from(">I", content, at)
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, at + 8)
        if size == 0:
            # The last box goes on to the end of the file, wherever that is.
            return _jpeg_ends(content) if content[at + 4 : at + 8] == b"jp2c" else None
        if size < 8:
            return None
        at += size
    return at > len(content)


def _tiff_ends(content: bytes) -> bool | None:
    tags = read_tiff_tags(content)
    if tags is None:
        return True
    starts, lengths = (
        [number for tag in kinds for number in _numbers(tags.get(tag, ()))] for kinds in (_STARTS, _LENGTHS)
    )
    ends = [start + length for start, length in zip(starts, lengths, strict=False)]
    return max(ends) > len(content) if ends else None


def read_tiff_tags(content: bytes) -> dict[int, object] | None:
    """Bits a channel, and where its pixels lie, of a TIFF file's first page; None where that cannot be read."""
    stream = io.BytesIO(content)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if b"+" in content[2:4] else 8])
        stream.seek(tags.next)
        tags.load(stream)
        found = {tag: tags[tag] for tag in (_BITS, *_STARTS, *_LENGTHS) if tag in tags}
    except (SyntaxError, struct.error, ValueError, TypeError, KeyError, IndexError, OSError):
        return None
    return found or None


def file_depth(content: bytes, name: str) -> int:
    """Bits a channel of a file that could not be opened, where its header tells; 8 otherwise."""
    if name == "TIFF":
        return largest((read_tiff_tags(content) or {}).get(_BITS, 8))
    return header_depth(content, name)


def header_depth(header: bytes, name: str) -> int:
    """Bits a channel by the header of a JPEG 2000 or AVIF file; 8 where it does not tell."""
    if name == "AVIF":
        at = header.find(b"av1C")
        return 10 if at >= 0 and header[at + 6 : at + 7] and header[at + 6] & 0x40 else 8
    at = header.find(b"\xff\x4f\xff\x51")
    # After the marker: 38 bytes that end with the number of channels, then three bytes for each.
    precisions = header[at + 42 :: 3][: header[at + 41]] if name == "JPEG2000" and 0 <= at < len(header) - 42 else b""
    return max((byte & 0x7F) + 1 for byte in precisions) if precisions else 8


def largest(value: object) -> int:
    """The largest number of a TIFF tag's value."""
    return max(_numbers(value), default=8)


def _numbers(value: object) -> Iterator[int]:
    yield from (item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, int))


def why_unread(content: bytes, name: str) -> str:
    """What the decoder of format `name` has against the file, which opening by any format does not tell."""
    factory, _ = Image.OPEN[name]
    try:
        factory(io.BytesIO(content), "")
    except (SyntaxError, IndexError, TypeError, struct.error, ValueError, OSError, RuntimeError) as error:
        return str(error)
    return ""


_STRUCTURES: dict[str | None, Callable[[bytes], bool | None]] = {
    "PNG": _png_ends,
    "JPEG": _jpeg_ends,
    "MPO": _jpeg_ends,
    "GIF": _gif_ends,
    "BMP": _bmp_ends,
    "TIFF": _tiff_ends,
    "WEBP": _webp_ends,
    "JPEG2000": _box_ends,
    "AVIF": _box_ends,
}
