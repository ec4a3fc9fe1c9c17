"""What the one image reader makes of files: modes by formats, EXIF orientations, transparency."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from coordexp.data.pictures import ORIENTATION
from tests.plugins.picture_files import HEIGHT, NOISE, SIZE, WIDTH, Pixels, read, refused, saved

COLOUR, GREY, ALPHA = NOISE[..., :3], NOISE[..., 0], NOISE[..., 3]
RGBA, RGB, L = Image.fromarray(NOISE), Image.fromarray(COLOUR), Image.fromarray(GREY)
LA = Image.merge("LA", [L, Image.fromarray(ALPHA)])
PALETTE = RGB.quantize(16)
BILEVEL = L.convert("1")
CMYK = RGB.convert("CMYK")
THICK = Image.fromarray(np.kron(NOISE[:2, :3], np.ones((16, 16, 1), dtype=np.uint8)))
"""Six squares of a colour and an alpha each: no loss of a lossy format takes them for one another."""


def on_white(colour: Pixels, alpha: Pixels) -> NDArray[np.float64]:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def grey3(levels: Pixels) -> Pixels:
    return np.repeat(levels[..., None], 3, axis=2)


def keyed(levels: Pixels, clear: NDArray[np.bool_]) -> Pixels:
    return np.where(clear[..., None], np.uint8(255), levels)


COLOURS = np.asarray(PALETTE.convert("RGB"))
INDICES = np.asarray(PALETTE)
CLEAR_SHARES = bytes(range(0, 256, 16))


def multiplied_tiff() -> bytes:
    """A TIFF file whose colours are multiplied by their alpha, and which says so; Pillow writes none."""
    stored = np.dstack([(COLOUR * (ALPHA[..., None] / 255)).round().astype(np.uint8), ALPHA])
    content = saved(Image.fromarray(stored), "TIFF")
    unassociated = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
    assert content.count(unassociated) == 1
    return content.replace(unassociated, struct.pack("<HHIHH", 338, 3, 1, 1, 0))


OPAQUE: dict[str, tuple[bytes, Any, int]] = {
    **{
        f"RGB {kind}": (saved(RGB, kind), COLOUR, 0)
        for kind in ("PNG", "BMP", "TIFF", "PPM", "TGA", "SGI", "PCX", "QOI", "DDS")
    },
    "RGB WEBP": (saved(RGB, "WEBP", lossless=True), COLOUR, 0),
    "RGB JPEG2000": (saved(RGB, "JPEG2000"), COLOUR, 0),
    "RGB AVIF": (saved(THICK.convert("RGB"), "AVIF", quality=100, subsampling="4:4:4"), THICK.convert("RGB"), 4),
    "RGB JPEG": (saved(THICK.convert("RGB"), "JPEG", quality=100, subsampling=0), THICK.convert("RGB"), 4),
    "RGB progressive JPEG": (saved(RGB, "JPEG", progressive=True), Image.open(io.BytesIO(saved(RGB, "JPEG"))), 0),
    "RGB TIFF lzw": (saved(RGB, "TIFF", compression="tiff_lzw"), COLOUR, 0),
    "RGB TIFF deflate": (saved(RGB, "TIFF", compression="tiff_adobe_deflate"), COLOUR, 0),
    **{f"L {kind}": (saved(L, kind), grey3(GREY), 0) for kind in ("PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG2000")},
    "L JPEG": (saved(L, "JPEG", quality=100), grey3(GREY), 4),
    **{f"1 {kind}": (saved(BILEVEL, kind), BILEVEL.convert("RGB"), 0) for kind in ("PNG", "BMP", "TIFF", "PPM")},
    **{f"P {kind}": (saved(PALETTE, kind), COLOURS, 0) for kind in ("PNG", "BMP", "TIFF", "GIF", "PCX")},
    "P PNG of 2 bits": (saved(RGB.quantize(4), "PNG", bits=2), RGB.quantize(4).convert("RGB"), 0),
    "CMYK TIFF": (saved(CMYK, "TIFF"), COLOUR, 0),
    "CMYK JPEG": (saved(THICK.convert("RGB").convert("CMYK"), "JPEG", quality=100), THICK.convert("RGB"), 4),
    "YCbCr TIFF": (saved(RGB.convert("YCbCr"), "TIFF"), RGB.convert("YCbCr").convert("RGB"), 0),
}
CLEAR: dict[str, tuple[bytes, Any, int]] = {
    **{f"RGBA {kind}": (saved(RGBA, kind), on_white(COLOUR, ALPHA), 1) for kind in ("PNG", "TIFF", "TGA", "JPEG2000")},
    "RGBA WEBP": (saved(RGBA, "WEBP", lossless=True, exact=True), on_white(COLOUR, ALPHA), 1),
    "RGBA AVIF": (
        saved(THICK, "AVIF", quality=100, subsampling="4:4:4"),
        on_white(np.asarray(THICK)[..., :3], np.asarray(THICK)[..., 3]),
        4,
    ),
    "RGBA of alpha 0": (
        saved(Image.merge("RGBA", [*RGB.split(), Image.new("L", SIZE, 0)]), "PNG"),
        grey3(GREY * 0 + 255),
        0,
    ),
    "RGBA of alpha 255": (saved(Image.merge("RGBA", [*RGB.split(), Image.new("L", SIZE, 255)]), "PNG"), COLOUR, 0),
    **{f"LA {kind}": (saved(LA, kind), on_white(grey3(GREY), ALPHA), 1) for kind in ("PNG", "TIFF")},
    "RGBa TIFF": (multiplied_tiff(), on_white(COLOUR, ALPHA), 2),
    "P of a clear entry": (saved(PALETTE, "PNG", transparency=3), keyed(COLOURS, INDICES == 3), 0),
    "P of clear entries": (
        saved(PALETTE, "PNG", transparency=CLEAR_SHARES),
        on_white(COLOURS, np.frombuffer(CLEAR_SHARES, dtype=np.uint8)[INDICES]),
        1,
    ),
    "P GIF of a clear entry": (saved(PALETTE, "GIF", transparency=3), keyed(COLOURS, INDICES == 3), 0),
    "L of a clear level": (saved(L, "PNG", transparency=int(GREY[0, 0])), keyed(grey3(GREY), GREY[0, 0] == GREY), 0),
    "1 of a clear level": (saved(BILEVEL, "PNG", transparency=0), grey3(GREY * 0 + 255), 0),
    "RGB of a clear colour": (
        saved(RGB, "PNG", transparency=tuple(int(v) for v in COLOUR[0, 0])),
        keyed(COLOUR, (COLOUR[0, 0] == COLOUR).all(axis=2)),
        0,
    ),
}


@pytest.mark.invariant("DATA-030")
@pytest.mark.parametrize("name", OPAQUE)
def test_eight_bits_of_any_mode_and_format_become_rgb(tmp_path: Path, name: str) -> None:
    content, expected, slack = OPAQUE[name]
    picture = read(tmp_path, content)
    np.testing.assert_allclose(np.asarray(picture.image).astype(float), np.asarray(expected).astype(float), atol=slack)
    assert picture.adjustments == ()
    assert picture.plain == name.startswith("RGB")


@pytest.mark.invariant("DATA-030")
@pytest.mark.parametrize("name", CLEAR)
def test_what_is_clear_is_laid_on_white_and_said(tmp_path: Path, name: str) -> None:
    content, expected, slack = CLEAR[name]
    picture = read(tmp_path, content)
    np.testing.assert_allclose(np.asarray(picture.image).astype(float), np.asarray(expected).astype(float), atol=slack)
    assert (picture.adjustments, picture.plain) == (("alpha_flattened",), False)


@pytest.mark.invariant("DATA-030")
@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_read_and_said(tmp_path: Path, kind: str) -> None:
    first = PALETTE if kind == "GIF" else RGB
    more = {"lossless": True} if kind == "WEBP" else {}
    content = saved(first, kind, save_all=True, append_images=[first.rotate(180)], **more)
    picture = read(tmp_path, content)
    assert np.array_equal(np.asarray(picture.image), np.asarray(first.convert("RGB")))
    assert (picture.adjustments, picture.plain) == (("first_frame",), False)


def displayed(pixels: Pixels, orientation: int) -> Pixels:
    """EXIF's eight orientations by their definition: where the stored first row and first column are shown."""
    shown = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: pixels[::-1].swapaxes(0, 1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: pixels[:, ::-1].swapaxes(0, 1),
    }
    return shown[orientation]


def oriented(kind: str, orientation: Any, image: Image.Image = RGB) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    more = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    return saved(image, kind, exif=exif, **more)


EXIF_KINDS = ("JPEG", "PNG", "WEBP", "TIFF")
COARSE = THICK.convert("RGB")
TURNING = [(kind, orientation) for kind in EXIF_KINDS for orientation in range(1, 9)]


@pytest.mark.invariant("DATA-031")
@pytest.mark.parametrize(("kind", "orientation"), TURNING)
def test_the_declared_size_decides_an_orientation_where_it_can(tmp_path: Path, kind: str, orientation: int) -> None:
    content, stored = oriented(kind, orientation, COARSE), np.asarray(COARSE)
    if orientation in (2, 3, 4):
        error = refused(tmp_path, content)
        assert error.reason == "exif_ambiguous"
        for words in (f"EXIF orientation {orientation}", "48x32 pixels as stored", "48x32 as displayed"):
            assert words in str(error)
        assert "cook --exif apply" in str(error) and "--exif ignore" in str(error)
    else:
        picture = read(tmp_path, content)
        assert picture.adjustments == (() if orientation == 1 else ("exif_ignored",))
        assert picture.plain == (orientation == 1)
        np.testing.assert_allclose(np.asarray(picture.image).astype(int), stored, atol=4)
    if orientation >= 5:
        picture = read(tmp_path, content, (HEIGHT, WIDTH))
        assert (picture.adjustments, picture.plain) == (("exif_applied",), False)
        np.testing.assert_allclose(np.asarray(picture.image).astype(int), displayed(stored, orientation), atol=4)


@pytest.mark.invariant("DATA-031")
@pytest.mark.parametrize(("kind", "orientation"), TURNING)
def test_a_policy_decides_what_the_size_does_not(tmp_path: Path, kind: str, orientation: int) -> None:
    square = COARSE.crop((0, 0, 32, 32))
    for image in (square, COARSE) if orientation < 5 else (square,):
        content, stored = oriented(kind, orientation, image), np.asarray(image)
        wanted = {"apply": displayed(stored, orientation), "ignore": stored}
        for policy, pixels in wanted.items():
            picture = read(tmp_path, content, image.size, policy)
            told = {"apply": ("exif_applied",), "ignore": ("exif_ignored",)}[policy]
            assert picture.adjustments == (() if orientation == 1 else told)
            np.testing.assert_allclose(np.asarray(picture.image).astype(int), pixels, atol=4)
        if orientation > 1:
            assert refused(tmp_path, content, image.size).reason == "exif_ambiguous"


@pytest.mark.invariant("DATA-031")
@pytest.mark.parametrize("policy", ["apply", "ignore"])
def test_a_policy_changes_nothing_where_the_size_decides(tmp_path: Path, policy: str) -> None:
    content = oriented("PNG", 6)
    assert read(tmp_path, content, (HEIGHT, WIDTH), policy).adjustments == ("exif_applied",)
    assert read(tmp_path, content, SIZE, policy).adjustments == ("exif_ignored",)


@pytest.mark.invariant("DATA-031")
def test_transparency_and_orientation_are_both_dealt_with(tmp_path: Path) -> None:
    picture = read(tmp_path, oriented("PNG", 8, RGBA), (HEIGHT, WIDTH))
    assert picture.adjustments == ("exif_applied", "alpha_flattened")
    np.testing.assert_allclose(np.asarray(picture.image), displayed(on_white(COLOUR, ALPHA), 8), atol=1)


@pytest.mark.invariant("DATA-031")
@pytest.mark.parametrize("size", [(33, 32), (32, 48), (96, 64), (1, 1)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_size_that_fits_neither_way_is_refused_with_all_sizes(
    tmp_path: Path, size: tuple[int, int], orientation: int
) -> None:
    if orientation == 6 and size == (HEIGHT, WIDTH):
        return
    error = refused(tmp_path, oriented("JPEG", orientation), size)
    assert error.reason == "size_mismatch"
    assert "48x32 pixels" in str(error) and f"declared as {size[0]}x{size[1]}" in str(error)
    assert ("EXIF orientation" in str(error)) == (orientation != 1)
    assert ("exchanged" in str(error)) == (orientation == 1 and size == (32, 48))


@pytest.mark.invariant("DATA-031")
@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06",
        b"Exif\0\0XX*\0\x08\0\0\0",
        b"nothing of the kind",
        bytes(200),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_malformed_exif_is_no_orientation(tmp_path: Path, kind: str, exif: bytes) -> None:
    picture = read(tmp_path, saved(RGB, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))
    assert picture.adjustments == ()


@pytest.mark.invariant("DATA-031")
@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
def test_an_orientation_that_exif_does_not_know_turns_nothing_and_is_not_handed_on(
    tmp_path: Path, orientation: Any
) -> None:
    picture = read(tmp_path, oriented("JPEG", orientation))
    assert (picture.adjustments, picture.plain) == ((), False)
