"""Image files made for the reader of pictures: saved by Pillow, or by hand where it writes none of their kind."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from coordexp.data.pictures import Picture, PictureError, read_picture

Pixels = NDArray[np.uint8]
WIDTH, HEIGHT = 48, 32
SIZE = (WIDTH, HEIGHT)
NOISE: Pixels = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def read(folder: Path, content: bytes, size: tuple[int, int] = SIZE, exif: Any = None) -> Picture:
    path = folder / "image"
    path.write_bytes(content)
    picture = read_picture(path, size, exif)
    assert (picture.image.mode, picture.image.size, picture.image.info) == ("RGB", size, {})
    assert dict(picture.image.getexif()) == {}
    return picture


def refused(folder: Path, content: bytes, size: tuple[int, int] = SIZE) -> PictureError:
    with pytest.raises(PictureError) as caught:
        read(folder, content, size)
    assert str(caught.value).startswith(f"{folder / 'image'} ")
    return caught.value


def png_of_16_bits(colour_type: int, channels: int, clear: bytes = b"") -> bytes:
    """Written by hand: Pillow writes no colour of 16 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    deep = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, colour_type, 0, 0, 0)
    keyed_by = chunk(b"tRNS", clear) if clear else b""
    body = chunk(b"IHDR", header) + keyed_by + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff_of(bits: int, channels: int, sample_format: int = 1, order: str = "<") -> bytes:
    """An uncompressed TIFF file of one strip."""
    size = WIDTH * HEIGHT * channels * bits // 8
    at = 8
    depths = struct.pack(f"{order}{channels}H", *[bits] * channels)
    formats = struct.pack(f"{order}{channels}H", *[sample_format] * channels)
    pixels_at = at + len(depths) + len(formats)
    entries = [
        (256, 4, 1, WIDTH),
        (257, 4, 1, HEIGHT),
        (258, 3, channels, at if channels > 2 else bits),
        (259, 3, 1, 1),
        (262, 3, 1, 2 if channels >= 3 else 1),
        (273, 4, 1, pixels_at),
        (277, 3, 1, channels),
        (278, 4, 1, HEIGHT),
        (279, 4, 1, size),
        (339, 3, channels, at + len(depths) if channels > 2 else sample_format),
    ]
    table = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        packed = struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
        table += struct.pack(f"{order}HHI", tag, kind, count) + packed
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(f"{order}I", pixels_at + size)
    return head + depths + formats + bytes(size) + table + bytes(4)


def png_of_size(width: int, height: int) -> bytes:
    content = bytearray(saved(Image.new("1", SIZE), "PNG"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)
