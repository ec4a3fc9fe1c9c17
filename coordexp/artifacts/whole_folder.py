"""A folder that is there whole or not at all, whatever ends the process that writes it. Contract id: ART-020.

In: the final path; out: a folder beside it to write into, renamed when it is whole. A kill leaves that folder, whose
name tells what it is; the next writer of the same path removes it, and a start names it.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from coordexp.artifacts.files import current_umask
from coordexp.artifacts.folders import FolderError
from coordexp.encode.checkpoint import PARTIAL_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def written_whole(final: Path) -> Iterator[Path]:
    """Yields an empty folder beside `final`, which becomes `final` when the block ends well, and is removed when not.

    Files are readable as the process's umask says, and on the disk before the name is. Raises `FolderError` for a
    `final` that holds something, and for a disk that takes no more.
    """
    check_vacant(final)
    partial = partial_of(final)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in sorted(partial.rglob("*")):
            _settle(path)
        _sync(partial)
        partial.rename(final)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if is_of_the_disk(error):
            reason = " ".join(str(error).split())
            raise FolderError(f"{final}: could not be written: {reason}; nothing of it is left") from error
        raise
    _sync(final.parent)


def is_of_the_disk(error: BaseException) -> bool:
    """Whether an error is the operating system's, in the words of Python or of a library in Rust: tokenizers raises a
    bare `Exception`.
    """
    return isinstance(error, OSError) or (isinstance(error, Exception) and "os error" in str(error))


def check_vacant(final: Path) -> Path:
    """Return `final` if nothing is there, or an empty folder; else raise `FolderError`."""
    if os.path.lexists(final) and not (final.is_dir() and not final.is_symlink() and not any(final.iterdir())):
        what = "holds files already" if final.is_dir() else "is a file"
        raise FolderError(f"{final}: {what}, and a checkpoint is written into a folder of its own; write another path")
    return final


def partial_of(final: Path) -> Path:
    """Where a folder is while it is written."""
    return final.with_name(PARTIAL_PREFIX + final.name)


def partial_folders(folder: Path) -> tuple[Path, ...]:
    """What killed writers have left in `folder` and in the folders below it."""
    return tuple(sorted([*folder.glob(f"{PARTIAL_PREFIX}*"), *folder.glob(f"*/{PARTIAL_PREFIX}*")]))


def remove_folder(folder: Path) -> None:
    """Remove a whole folder: first its name, so that a kill leaves no half of it under that."""
    doomed = partial_of(folder)
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def point_link(link: Path, target: Path) -> None:
    """Let `link` lead to `target`, which lies beside it; readers see the old target or the new one."""
    fresh = partial_of(link)
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.name)
    fresh.replace(link)


def _settle(path: Path) -> None:
    """A file's mode is its owner's usual one (safetensors gives 0600), and its bytes are on the disk."""
    if path.is_file():
        path.chmod(0o666 & ~current_umask())
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
