"""What the one image reader does not guess at: more than 8 bits a channel, colours without a way to RGB, bombs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coordexp.data.pictures import LARGEST_PIXELS
from tests.plugins.picture_files import (
    HEIGHT,
    NOISE,
    WIDTH,
    png_of_16_bits,
    png_of_size,
    read,
    refused,
    saved,
    tiff_of,
)

GREY = NOISE[..., 0]
RGB, L = Image.fromarray(NOISE[..., :3]), Image.fromarray(GREY)
DEEP = Image.fromarray(GREY.astype(np.uint16) * 257)
DEPTHS: dict[str, bytes] = {
    "PNG grey": png_of_16_bits(0, 1),
    "PNG grey, clear level": png_of_16_bits(0, 1, b"\0\x01"),
    "PNG grey and alpha": png_of_16_bits(4, 2),
    "PNG colour": png_of_16_bits(2, 3),
    "PNG colour, clear colour": png_of_16_bits(2, 3, bytes(6)),
    "PNG colour and alpha": png_of_16_bits(6, 4),
    "TIFF grey": tiff_of(16, 1),
    "TIFF grey, big-endian": tiff_of(16, 1, order=">"),
    "TIFF colour": tiff_of(16, 3),
    "TIFF colour, big-endian": tiff_of(16, 3, order=">"),
    "TIFF four channels": tiff_of(16, 4),
    "TIFF integers of 32 bits": tiff_of(32, 1),
    "TIFF signed": tiff_of(32, 1, sample_format=2),
    "TIFF floats": tiff_of(32, 1, sample_format=3),
    "TIFF colour floats": tiff_of(32, 3, sample_format=3),
    "TIFF doubles": tiff_of(64, 1, sample_format=3),
    "TIFF eight bands": tiff_of(16, 8),
    "TIFF lzw": saved(DEEP, "TIFF", compression="tiff_lzw"),
    "PGM": b"P5 48 32 65535\n" + bytes(WIDTH * HEIGHT * 2),
    "PGM of 12 bits": b"P5 48 32 4095\n" + bytes(WIDTH * HEIGHT * 2),
    "PPM": b"P6 48 32 65535\n" + bytes(WIDTH * HEIGHT * 6),
    "PPM of 9 bits": b"P6 48 32 256\n" + bytes(WIDTH * HEIGHT * 6),
    "plain PGM": b"P2 48 32 1000\n" + b"999 " * (WIDTH * HEIGHT),
    "plain PPM": b"P3 48 32 1000\n" + b"999 " * (WIDTH * HEIGHT * 3),
    "PFM": b"Pf 48 32 -1.0\n" + bytes(WIDTH * HEIGHT * 4),
    "JPEG 2000 grey": saved(DEEP, "JPEG2000"),
    "I": saved(DEEP.convert("I"), "TIFF"),
    "F": saved(L.convert("F"), "TIFF"),
}


@pytest.mark.invariant("DATA-032")
@pytest.mark.parametrize("name", DEPTHS)
def test_more_than_eight_bits_are_refused_and_never_reduced(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path, DEPTHS[name])
    assert error.reason == "unsupported_depth", error
    assert "magick IN -depth 8 OUT.png" in str(error)


def siz_of_16_bits() -> bytes:
    """A JPEG 2000 file of three channels that says 16 bits where it said 8: refused before it is decoded."""
    content = bytearray(saved(RGB, "JPEG2000"))
    at = content.index(b"\xff\x4f\xff\x51") + 42
    content[at : at + 9 : 3] = bytes([15, 15, 15])
    return bytes(content)


@pytest.mark.invariant("DATA-032")
def test_jpeg_2000_of_three_deep_channels_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, siz_of_16_bits()).reason == "unsupported_depth"


@pytest.mark.invariant("DATA-032")
@pytest.mark.parametrize("highest", [1, 15, 100, 255])
def test_fewer_than_eight_bits_are_read_at_their_own_scale(tmp_path: Path, highest: int) -> None:
    picture = read(tmp_path, b"P5 48 32 %d\n" % highest + bytes([highest] * (WIDTH * HEIGHT)))
    assert np.asarray(picture.image).min() == 255


@pytest.mark.invariant("DATA-032")
@pytest.mark.parametrize("image", [RGB.convert("LAB")], ids=["LAB"])
def test_colours_without_a_sound_way_to_rgb_are_refused(tmp_path: Path, image: Image.Image) -> None:
    error = refused(tmp_path, saved(image, "TIFF"))
    assert error.reason == "unsupported_colour" and "LAB" in str(error) and "magick" in str(error)


@pytest.mark.invariant("DATA-032")
def test_a_picture_of_many_bands_is_no_colour(tmp_path: Path) -> None:
    assert refused(tmp_path, tiff_of(8, 8)).reason == "unsupported_colour"


@pytest.mark.invariant("DATA-032")
@pytest.mark.parametrize("size", [(20000, 20000), (LARGEST_PIXELS + 1, 1), (65535, 65535)])
@pytest.mark.parametrize("pillow", ["as it is", "without a limit"])
def test_a_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], pillow: str
) -> None:
    if pillow == "without a limit":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    error = refused(tmp_path, png_of_size(*size), size)
    assert error.reason == "decompression_bomb"
    assert f"{size[0] * size[1]:,} pixels" in str(error) and f"{LARGEST_PIXELS:,}" in str(error)


@pytest.mark.invariant("DATA-032")
def test_pillow_does_not_warn_of_a_size_that_is_read(tmp_path: Path) -> None:
    """In a process of its own, since pytest has its own filters of warnings."""
    path = tmp_path / "large.png"
    Image.new("1", (10_000, 9_000)).save(path)
    code = (
        "import pathlib, sys; from coordexp.data.pictures import check_header as c; c(pathlib.Path(sys.argv[1]), SIZE)"
    )
    command = [sys.executable, "-W", "always", "-c", code.replace("SIZE", "(10000, 9000)"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
