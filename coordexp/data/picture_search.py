"""What a person names in, the picture files that are meant out: folders, globs and files. Contract id: EVAL-070.

A name that is there is taken literally, brackets and all; only one that is not there is read as a glob. Nothing is
opened here: what a file holds is for `coordexp.data.pictures` to say.
"""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING

from coordexp.data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".avif"),
    *(".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".psd", ".pcx", ".sgi", ".dds", ".qoi"),
    # Pictures that are not read: left out of a folder without a word they would be missed.
    *(".heic", ".heif", ".jxl"),
)
"""Ends of names, in any case, by which a folder's pictures are told from its other files."""
_SHOWN = ", ".join(SUFFIXES[:5])
_HIDDEN = "."


def find_pictures(names: Sequence[str], outside: Path) -> list[str]:
    """The files that `names` stand for, each once and under its name as given, sorted by it.

    A folder stands for the pictures in it and below it, a glob for those that it matches, both without hidden ones and
    without what lies in the folder `outside`; a file is taken whatever it is called. Raises `DataError` for a name that
    stands for nothing.
    """
    found: dict[str, str] = {}
    for name in names:
        for path in _files_of(name, os.path.realpath(outside)):
            found.setdefault(os.path.abspath(path), path)
    return sorted(found.values())


def _files_of(name: str, outside: str) -> list[str]:
    if not name.strip():
        raise DataError("an empty name stands for no picture; name a folder, a glob or a file")
    if os.path.isdir(name):
        if _lies_in(os.path.realpath(name), outside):
            raise DataError(f"{name}: lies in the folder of the answers, {outside}; name another folder for those")
        files = list(_walk(name, outside))
        if not files:
            raise DataError(
                f"{name}: the folder holds no picture, not in the folders below it either; pictures are told by their "
                f"names' ends ({_SHOWN}, …, in any case), and hidden ones are left out. Name the folder that holds "
                "them, or the files"
            )
        return files
    if os.path.lexists(name):
        return [os.path.normpath(name)]
    if name.startswith("~"):
        raise DataError(f"{name}: does not exist; a shell leaves ~ in quotes as it is, so write the whole path")
    if glob.has_magic(name):
        return _matched(name, outside)
    raise DataError(f"{name}: does not exist; name a folder, a file, or a glob in quotes such as 'photos/*.jpg'")


def _matched(pattern: str, outside: str) -> list[str]:
    head, rest = os.path.split(pattern)
    while head and not os.path.isdir(head) and os.path.dirname(head) != head:
        head, rest = os.path.dirname(head), os.path.join(os.path.basename(head), rest)
    # Folders that are there under this name are no pattern: `album [2]/*.jpg`.
    found = glob.glob(os.path.join(glob.escape(head), rest), recursive=True)
    matches = [match for match in found if not os.path.isdir(match)]
    files = list(_visible(map(os.path.normpath, matches), outside))
    if not files:
        among = f"other files ({len(matches)}), none with" if matches else "no file with"
        raise DataError(
            f"{pattern}: is no file, and as a glob it matches {among} a picture's name ({_SHOWN}, …); "
            "`**` reaches the folders below, and a folder can be named as it is"
        )
    return files


def _walk(folder: str, outside: str) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise DataError(
            f"{error.filename}: the folder cannot be read ({error.strerror}); make it readable, or name the pictures"
        ) from error

    for place, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(_HIDDEN)]
        yield from _visible((os.path.normpath(os.path.join(place, name)) for name in files), outside)


def _visible(paths: Iterable[str], outside: str) -> Iterator[str]:
    for path in paths:
        folder, name = os.path.split(path)
        hidden = name.startswith(_HIDDEN) or not name.lower().endswith(SUFFIXES)
        if not hidden and not _lies_in(os.path.realpath(folder or os.curdir), outside):
            yield path


def _lies_in(folder: str, other: str) -> bool:
    return folder == other or folder.startswith(other + os.sep)
