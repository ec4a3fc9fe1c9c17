"""The one reader of image files: a file and the size that is declared for it in, RGB of 8 bits a channel out.

Cooking, checking, training, rollout requests and galleries ask here, so that all see the same pixels: transparency laid
on white, EXIF orientations as the declared size decides (all, where none is declared), the first frame. What cannot be
read soundly is refused by name, never guessed at. Contract ids: DATA-030..DATA-036, EVAL-071.
"""

from __future__ import annotations

import errno
import re
import stat
import struct
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from PIL import Image, ImageFile, UnidentifiedImageError

from coordexp.data.errors import DataError
from coordexp.data.picture_files import AGAIN, ends_early, file_depth, file_kind, header_depth, largest, why_unread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ExifPolicy = Literal["apply", "ignore"]
Reason = Literal[
    "missing_image",
    "unreadable_image",
    "not_an_image",
    "truncated_image",
    "corrupt_image",
    "unsupported_depth",
    "unsupported_colour",
    "decompression_bomb",
    "size_mismatch",
    "exif_ambiguous",
]
UNDECIDED: Reason = "exif_ambiguous"
"""The reason that ends cooking: dropping the image would hide a question that concerns all others of its kind."""
COOK = "python -m coordexp.entrypoints.cook"
LARGEST_PIXELS = 178_956_970
"""Width times height that is decoded: half a gigabyte of RGB. Pillow and vLLM stop there too."""
# Pillow warns of half as many. A filter around each picture would be neither thread-safe nor quick.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
ORIENTATION = 0x0112
# In the order they are tried. Left out of Pillow's: what runs other programs (EPS), what holds no picture that Pillow
# can draw (WMF, GRIB, HDF5, MPEG), and what only science uses.
_FORMATS = (
    "JPEG",
    "PNG",
    "GIF",
    "BMP",
    "PPM",
    "TIFF",
    "WEBP",
    "JPEG2000",
    "AVIF",
    "DIB",
    "ICO",
    "PSD",
    "PCX",
    "SGI",
    "DDS",
    "SUN",
    "QOI",
    "TGA",
)
_SOUND_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LA", "PA", "RGBA", "La", "RGBa")
_CLEAR_MODES = ("LA", "PA", "RGBA", "La", "RGBa")
_KEYED_MODES = ("1", "L", "P", "RGB")
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS = 256, 257, 258
_HEADER = 1 << 16
# Raw modes of more than 8 bits a channel. BGR;16 and BGR;15 pack a whole pixel into 16 bits.
_DEEP_RAW = re.compile(r"^LA?;16$|;(?:16|32|64)[BLNSF]")
_SAID_DEPTH = re.compile(r"(\d+)-bit")
_SAID_COLOUR = re.compile(r"unknown pixel mode|samples per pixel|cannot handle \d+-layer|determine J2K image mode")
_UPRIGHT, _MEANINGLESS = 1, 0
_EXIF_KEYS = frozenset(("exif", "Raw profile type exif"))
"""Where Pillow keeps the EXIF of a PNG that stands before its pixels."""
_TURNED_WHEN_DECODED = "TIFF"
"""The one format that Pillow turns as its EXIF says while it decodes it."""
_SIDEWAYS = (5, 6, 7, 8)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNS_BACK = _TURNS | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
_DECODING = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    RuntimeError,
    struct.error,
)
"""What Pillow's decoders raise for bytes that are no picture of theirs."""
_DEPTH_REMEDY = (
    "Convert it to 8 bits yourself, all images of a data set alike: `magick IN -depth 8 OUT.png` keeps the scale "
    "(65535 becomes 255), `magick IN -auto-level -depth 8 OUT.png` stretches the levels that occur"
)
_SIZE_REMEDY = (
    f"Correct its width and height, or put the file there that they were taken from; records are written by `{COOK}`"
)
_EXIF_REMEDY = (
    f"Cook it with `{COOK} --exif apply` where the boxes were drawn on the picture as viewers turn it, with `--exif "
    "ignore` where they were drawn on the pixels as stored"
)


class PictureError(DataError):
    """An image file that is not read; `reason` is for machines, `fault` names the file, `remedy` says what to do."""

    def __init__(self, reason: Reason, path: Path, words: str, remedy: str = AGAIN) -> None:
        super().__init__(reason, path, words, remedy)
        self.reason, self.fault, self.remedy = reason, f"{_quoted(path)} {words}", remedy

    def __str__(self) -> str:
        return f"{self.fault}. {self.remedy}"


def _quoted(path: Path) -> str:
    """The path, in quotes where its name's ends would not be seen."""
    return str(path) if path.name == path.name.strip() else repr(str(path))


@dataclass(frozen=True, eq=False)
class Picture:
    """The `image` in RGB, of the declared size and without any metadata, and what was done to get there.

    `adjustments` are some of exif_applied, exif_ignored, alpha_flattened and first_frame. `plain` says that every
    reader sees these pixels in the file itself, which is of `format`: RGB, upright, opaque, a single frame.
    """

    image: Image.Image
    adjustments: tuple[str, ...]
    format: str
    plain: bool


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known of a file before its pixels are."""

    format: str
    mode: str
    stored: tuple[int, int]
    clear: bool
    frames: bool


def read_picture(path: Path, declared: tuple[int, int] | None, exif: ExifPolicy | None = None) -> Picture:
    """The picture in the file, whose width and height are `declared`. Raises `PictureError`.

    `exif` decides an EXIF orientation that the declared size does not: without it, that is refused. Where None is
    declared, it is the picture as viewers show it, every orientation applied.
    """
    with _stream(path) as stream:
        opened, facts = _open(stream, path)
        orientation = _load(opened, facts, path)
        if declared is None:
            declared, exif = _displayed(facts.stored, orientation), "apply"
        turn = _choose_turn(path, (facts.stored, orientation), declared, exif)
        flat = _turned(_as_rgb(opened, facts), facts, (orientation, turn))
    if flat.size != declared:
        raise PictureError(
            "corrupt_image", path, f"has {_sized(flat.size)} pixels when decoded, not {_sized(declared)}"
        )
    done = {
        "exif_applied": turn is True,
        "exif_ignored": turn is False,
        "alpha_flattened": facts.clear,
        "first_frame": facts.frames,
    }
    adjustments = tuple(what for what, was in done.items() if was)
    plain = not adjustments and facts.mode == "RGB" and orientation == _UPRIGHT
    return Picture(flat, adjustments, facts.format, plain)


def check_header(path: Path, declared: tuple[int, int]) -> None:
    """Raise the `PictureError` that `read_picture` would, as far as the file's header tells; pixels stay undecoded.

    What is left to the pixels: whether the file is whole, and the EXIF of a PNG that stands behind them.
    """
    with _stream(path) as stream:
        opened, facts = _open(stream, path)
        behind = facts.format == "PNG" and not _EXIF_KEYS & opened.info.keys()
        orientation = _UPRIGHT if behind else _read_orientation(opened)
    if behind and facts.stored != declared:
        read_picture(path, declared)
    else:
        _choose_turn(path, (facts.stored, orientation), declared, None)


@contextmanager
def _stream(path: Path) -> Iterator[BinaryIO]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise PictureError("unreadable_image", path, "is a folder or a device, and no file", "Name the image file")
        stream = open(path, "rb")  # noqa: SIM115
    except (FileNotFoundError, NotADirectoryError) as error:
        remedy = "Put the file there, or correct its name or the folder that names start from"
        raise PictureError("missing_image", path, "does not exist", remedy) from error
    except OSError as error:
        raise _denied(path, error) from error
    with stream:
        yield stream


def _denied(path: Path, error: OSError) -> PictureError:
    remedy = "Make the file readable for whoever runs this"
    if error.errno == errno.ENAMETOOLONG:
        remedy = "Shorten its name, here and where it is named: most systems take 255 bytes"
    return PictureError("unreadable_image", path, f"cannot be read ({error.strerror})", remedy)


def _open(stream: BinaryIO, path: Path) -> tuple[Image.Image, _Facts]:
    """The file judged by its header alone, its pixels not decoded yet."""
    try:
        opened = Image.open(stream, formats=_FORMATS)
        # An animation of a broken second frame tells so here.
        frames = bool(getattr(opened, "is_animated", False)) and opened.format != "PSD"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bomb(path, str(error)) from error
    except _DECODING as error:
        raise _unread(path, error) from error
    if opened.width * opened.height > LARGEST_PIXELS:
        raise _bomb(path, str(opened.width * opened.height))
    deep = _find_depth(opened, stream)
    if deep is not None:
        raise PictureError("unsupported_depth", path, f"has {deep}, and 8 bits a channel are read", _DEPTH_REMEDY)
    if opened.mode not in _SOUND_MODES:
        raise _colour(path, f"is in the colours {opened.mode}")
    stored = opened.size
    if opened.format == _TURNED_WHEN_DECODED:
        # Its size is already that of the turned picture.
        stored = opened.tag_v2[_TIFF_WIDTH], opened.tag_v2[_TIFF_HEIGHT]
    clear = opened.mode in _CLEAR_MODES or (opened.mode in _KEYED_MODES and "transparency" in opened.info)
    return opened, _Facts(str(opened.format), opened.mode, stored, clear, frames)


def _bomb(path: Path, said: str) -> PictureError:
    remedy = "Cut it into smaller images before it is annotated, or leave it out"
    found = re.search(r"\d+", said)
    count = f"{int(found[0]):,}" if found else "too many"
    return PictureError(
        "decompression_bomb", path, f"holds {count} pixels, and up to {LARGEST_PIXELS:,} are read", remedy
    )


def _colour(path: Path, words: str) -> PictureError:
    remedy = "Convert it, such as with `magick IN -colorspace sRGB -type TrueColor OUT.png`"
    return PictureError("unsupported_colour", path, f"{words}, which have no sound way to RGB", remedy)


def _find_depth(opened: Any, stream: BinaryIO) -> str | None:
    """What the channels hold where it is more than 8 bits; None for 8 or fewer.

    The mode does not tell: Pillow silently makes 8 bits of the 16 that a channel of an RGB file has.
    """
    if opened.mode.startswith("I;"):
        return "16 bits a channel"
    if opened.mode in ("I", "F"):
        return "integers of 32 bits" if opened.mode == "I" else "floats"
    bits = 8
    if opened.format == "TIFF":
        bits = largest(opened.tag_v2.get(_TIFF_BITS, bits))
    elif opened.format in ("JPEG2000", "AVIF"):
        # The decoder reads on from where the stream stands.
        here = stream.tell()
        stream.seek(0)
        bits = header_depth(stream.read(_HEADER), opened.format)
        stream.seek(here)
    else:
        bits = max((_tile_depth(tile.args) for tile in opened.tile), default=bits)
    return f"{bits} bits a channel" if bits > 8 else None


def _tile_depth(args: Any) -> int:
    """Bits that a channel takes in the file, by the raw mode (`RGB;16B`); PPM states its highest level beside it."""
    raw, *rest = args if isinstance(args, tuple) else (args,)
    if rest and raw in ("L", "RGB") and type(rest[0]) is int:
        return max(8, rest[0].bit_length())
    return 8 if _DEEP_RAW.search(str(raw)) is None else 16


def _read_orientation(opened: Image.Image) -> int:
    """1 to 8 as EXIF counts them; 1 also where there is none, 0 where what is there means nothing."""
    try:
        found = opened.getexif().get(ORIENTATION, _UPRIGHT)
    except _DECODING:
        return _MEANINGLESS
    return found if type(found) is int and (found == _UPRIGHT or found in _TURNS) else _MEANINGLESS


def _choose_turn(
    path: Path, found: tuple[tuple[int, int], int], declared: tuple[int, int], exif: ExifPolicy | None
) -> bool | None:
    """Whether to turn the picture of the stored size and orientation `found`; None where there is nothing to turn."""
    stored, orientation = found
    if orientation not in _TURNS:
        if stored == declared:
            return None
        hint = ", as if the two were exchanged" if stored[::-1] == declared else ""
        words = f"has {_sized(stored)} pixels, and its width and height are declared as {_sized(declared)}{hint}"
        raise PictureError("size_mismatch", path, words, _SIZE_REMEDY)
    displayed = _displayed(stored, orientation)
    sizes = (
        f"has {_sized(stored)} pixels as stored and {_sized(displayed)} as displayed (EXIF orientation {orientation})"
    )
    if declared not in (stored, displayed):
        words = f"{sizes}, and its width and height are declared as {_sized(declared)}"
        raise PictureError("size_mismatch", path, words, _SIZE_REMEDY)
    if stored != displayed:
        return displayed == declared
    if exif is None:
        words = f"{sizes}: the declared {_sized(declared)} fits both, so which of them the boxes belong to is not known"
        raise PictureError(UNDECIDED, path, words, _EXIF_REMEDY)
    return exif == "apply"


def _displayed(stored: tuple[int, int], orientation: int) -> tuple[int, int]:
    return stored[::-1] if orientation in _SIDEWAYS else stored


def _load(opened: Image.Image, facts: _Facts, path: Path) -> int:
    """Decode the pixels, all of them; return the EXIF orientation.

    Asked for its EXIF a PNG decodes itself, so that comes second; a TIFF has lost its orientation by then.
    """
    orientation = _read_orientation(opened) if facts.format == _TURNED_WHEN_DECODED else None
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        # Other packages switch it on for all: the missing part of a file would be read as grey.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        opened.load()
    except _DECODING as error:
        raise _unread(path, error, facts.format) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    return _read_orientation(opened) if orientation is None else orientation


def _as_rgb(opened: Image.Image, facts: _Facts) -> Image.Image:
    """RGB pixels without metadata, transparency on white: what is clear has no colour of its own."""
    flat = _lay_on_white(opened) if facts.clear else opened.convert("RGB")
    flat.info = {}
    return flat


def _lay_on_white(opened: Image.Image) -> Image.Image:
    # Colours multiplied by their alpha are divided first, and grey ones know no way but by LA.
    layered = opened.convert("LA") if opened.mode == "La" else opened
    ground = Image.new("RGBA", opened.size, (255, 255, 255, 255))
    return Image.alpha_composite(ground, layered.convert("RGBA")).convert("RGB")


def _turned(flat: Image.Image, facts: _Facts, choice: tuple[int, bool | None]) -> Image.Image:
    orientation, turn = choice
    was_turned = facts.format == _TURNED_WHEN_DECODED
    if turn is None or turn == was_turned:
        return flat
    return flat.transpose((_TURNS if turn else _TURNS_BACK)[orientation])


def _unread(path: Path, error: BaseException, name: str | None = None) -> PictureError:
    """What is wrong with a file that could not be opened, or decoded as one of format `name`."""
    if isinstance(error, OSError) and error.errno is not None:
        return _denied(path, error)
    content = path.read_bytes()
    kind = file_kind(content)
    name = name or kind.format
    if name is None:
        return PictureError("not_an_image", path, f"is {kind.what}", kind.remedy)
    said = why_unread(content, name) if isinstance(error, UnidentifiedImageError) else str(error)
    if ends_early(content, name, said):
        return PictureError("truncated_image", path, f"is a {name} file that ends before its picture does ({said})")
    found = _SAID_DEPTH.search(said)
    bits = int(found[1]) if found else file_depth(content, name)
    if bits > 8:
        return PictureError("unsupported_depth", path, f"has {bits} bits a channel, and 8 are read", _DEPTH_REMEDY)
    if _SAID_COLOUR.search(said):
        return _colour(path, f"is a {name} file of colours that are not read ({said})")
    return PictureError("corrupt_image", path, f"is a {name} file that cannot be decoded ({said})")


def _sized(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
