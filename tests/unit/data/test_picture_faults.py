"""Files that hold no whole picture are named as what they are, whatever their format's decoder says of them."""

from __future__ import annotations

import os
import pickle
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from coordexp.data.errors import DataError
from coordexp.data.pictures import PictureError, read_picture

SIZE = (64, 48)
RGB = Image.fromarray(np.random.default_rng(2).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def saved(kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    (RGB.quantize(200) if kind == "GIF" else RGB).save(buffer, format=kind, **options)
    return buffer.getvalue()


WHOLE = {
    "PNG": saved("PNG"),
    "JPEG": saved("JPEG"),
    "progressive JPEG": saved("JPEG", progressive=True),
    "GIF": saved("GIF"),
    "BMP": saved("BMP"),
    "TIFF": saved("TIFF"),
    "TIFF lzw": saved("TIFF", compression="tiff_lzw"),
    "TIFF deflate": saved("TIFF", compression="tiff_adobe_deflate"),
    "TIFF jpeg": saved("TIFF", compression="jpeg"),
    "WEBP": saved("WEBP"),
    "lossless WEBP": saved("WEBP", lossless=True),
    "PPM": saved("PPM"),
    "JPEG2000": saved("JPEG2000"),
    "AVIF": saved("AVIF"),
}


def fault(path: Path, size: tuple[int, int] = SIZE) -> PictureError:
    with pytest.raises(PictureError) as caught:
        read_picture(path, size)
    assert isinstance(caught.value, DataError)
    assert str(caught.value).startswith(f"{path} ") and "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "the [first] é.png"


@pytest.mark.invariant("DATA-033")
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_that_ends_early_is_truncated(file: Path, kind: str, part: float) -> None:
    content = WHOLE[kind]
    file.write_bytes(content[: int(len(content) * part)])
    error = fault(file)
    assert error.reason == "truncated_image", error
    assert ("ends before" in str(error) and kind.split()[-1].upper() in str(error).upper()) or "TIFF" in str(error)
    file.write_bytes(content)
    assert read_picture(file, SIZE).image.size == SIZE


@pytest.mark.invariant("DATA-033")
@pytest.mark.parametrize("length", [1, 2, 3, 7, 12, 20])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_beginning_alone_is_truncated(file: Path, kind: str, length: int) -> None:
    file.write_bytes(WHOLE[kind][:length])
    assert fault(file).reason == "truncated_image"


@pytest.mark.invariant("DATA-033")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_truncated_file_is_refused_where_other_packages_have_pillow_accept_it(
    file: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    file.write_bytes(WHOLE[kind][: len(WHOLE[kind]) // 2])
    assert fault(file).reason == "truncated_image"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True, "left as it was found"


@pytest.mark.invariant("DATA-033")
@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF deflate"])
def test_a_whole_file_that_does_not_decode_is_corrupt(file: Path, kind: str) -> None:
    content = bytearray(WHOLE[kind])
    middle = len(content) // 2
    content[middle : middle + 20] = b"\xff\0\x12" * 6 + b"zz"
    file.write_bytes(bytes(content))
    error = fault(file)
    assert error.reason == "corrupt_image", error


def archive() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("a.png", WHOLE["PNG"])
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
OTHERS = {
    "empty": (b"", "an empty file"),
    "zeros": (bytes(4096), "zero bytes alone"),
    "HTML": (b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>", "an HTML page"),
    "HTML in lower case": (b"\n <html lang='en'>", "an HTML page"),
    "LFS": (LFS, "a Git LFS pointer"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "an HEIC picture"),
    "HEIF": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(100), "an HEIC picture"),
    "video": (b"\0\0\0\x18ftypisom\0\0\0\0" + bytes(100), "a video"),
    "SVG": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n", "a PostScript document"),
    "ZIP": (archive(), "a ZIP archive"),
    "NumPy": (b"\x93NUMPY\x01\0v\0", "a NumPy array"),
    "text": ("Zugriff verweigert: Ä".encode(), "text and no picture; it begins 'Zugriff verweigert: Ä'"),
    "XML error": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "text and no picture"),
    "JSON": (b'{"message": "Not Found"}', "text and no picture"),
    "macOS": (b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ", "what macOS keeps beside another file"),
    "noise": (bytes(range(128, 256)), "no picture; it begins with the bytes 80 81"),
}


@pytest.mark.invariant("DATA-033")
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_picture_is_told_by_what_it_is(file: Path, name: str) -> None:
    content, words = OTHERS[name]
    file.write_bytes(content)
    error = fault(file)
    assert error.reason == "not_an_image"
    assert words in str(error)
    remedy = {"LFS": "git lfs pull", "HEIC": "heif-convert", "HEIF": "heif-convert", "macOS": "Delete it, and name the"}
    assert remedy.get(name, "") in str(error)


@pytest.mark.invariant("DATA-033")
def test_what_is_not_there_or_not_to_be_opened_is_told(tmp_path: Path) -> None:
    assert fault(tmp_path / "absent.png").reason == "missing_image"
    (tmp_path / "file").write_bytes(b"")
    assert fault(tmp_path / "file/a.png").reason == "missing_image"
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    assert fault(tmp_path / "dangling.png").reason == "missing_image"
    assert fault(tmp_path).reason == "unreadable_image"
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert fault(tmp_path / "loop.png").reason == "unreadable_image"
    too_long = fault(tmp_path / ("a" * 300))
    assert too_long.reason == "unreadable_image"
    assert "(File name too long). Shorten its name" in str(too_long)
    with pytest.raises(PictureError, match=f"^'{tmp_path}/ a.png ' does not exist"):
        read_picture(tmp_path / " a.png ", SIZE)
    os.mkfifo(tmp_path / "pipe.png")
    assert fault(tmp_path / "pipe.png").reason == "unreadable_image"


@pytest.mark.invariant("DATA-033")
def test_a_file_that_may_not_be_read_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may read everything, so the system's refusal is played."""
    file.write_bytes(WHOLE["PNG"])

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", deny)
    error = fault(file)
    assert error.reason == "unreadable_image" and "Permission denied" in str(error)


@pytest.mark.invariant("DATA-033")
def test_an_error_crosses_processes_whole(file: Path) -> None:
    error = fault(file)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reason, again.fault, again.remedy) == (
        str(error),
        error.reason,
        error.fault,
        error.remedy,
    )


@pytest.mark.invariant("DATA-033")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    cut=st.floats(0, 1),
    damage=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8),
)
def test_damage_of_any_kind_is_read_or_refused(
    tmp_path: Path, kind: str, cut: float, damage: list[tuple[int, int]]
) -> None:
    content = bytearray(WHOLE[kind][: int(len(WHOLE[kind]) * cut)])
    for at, byte in damage:
        if at < len(content):
            content[at] = byte
    path = tmp_path / "damaged"
    path.write_bytes(bytes(content))
    try:
        picture = read_picture(path, SIZE)
    except PictureError as error:
        assert str(error).startswith(f"{path} ")
    else:
        assert (picture.image.mode, picture.image.size) == ("RGB", SIZE)
