"""Whether a folder can be written into, before hours of work end in it. Contract ids: ART-010, ART-011.

In: the path of a folder that need not exist; out: the same path, or an error with what stands in the way. Nothing is
left behind.
"""

from __future__ import annotations

import os.path
import shutil
import tempfile
from typing import TYPE_CHECKING

from coordexp.artifacts.run_manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from pathlib import Path

_RUN_FILES = (MANIFEST_NAME, "logging.jsonl", "final", "config.json", "adapter_config.json")
_RUN_PATTERNS = ("checkpoint-*", "*.safetensors")
_GIB = 2**30


class FolderError(ValueError):
    """A folder that can't be written into, or has no room for what is to come."""


def check_writable(folder: Path) -> Path:
    """Return `folder` if it is one, or can be made, and takes a file; tried, because modes say little to root."""
    stands = _nearest(folder)
    if not os.path.isdir(stands):
        what = "" if stands == folder else f"{stands} "
        kind = "a link that leads nowhere" if os.path.islink(stands) else "a file"
        raise FolderError(f"{folder}: {what}is {kind}, not a folder; move it away, or write another path")
    made = [parent for parent in (folder, *folder.parents) if stands in parent.parents]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FolderError(f"{folder}: cannot be written into ({error.strerror}); write another path") from error
    finally:
        for parent in made:
            _remove_empty(parent)
    return folder


def _remove_empty(folder: Path) -> None:
    """Remove a folder that was made for the trial, unless another process has begun to use it."""
    if os.path.isdir(folder) and not any(folder.iterdir()):
        folder.rmdir()


def check_room(folder: Path, needed: int) -> Path:
    """Return `folder` if its disk has `needed` bytes left."""
    free = shutil.disk_usage(_nearest(folder)).free
    if free < needed:
        raise FolderError(
            f"{folder}: one checkpoint takes {needed / _GIB:.1f} GiB, and its disk has {free / _GIB:.1f} GiB left; "
            "free some, or write another path"
        )
    return folder


def traces_of_run(folder: Path) -> tuple[str, ...]:
    """What in a folder is of a run that has begun, or of a checkpoint; a dry run's resolved config is not."""
    if not os.path.isdir(folder):
        return ()
    names = [name for name in _RUN_FILES if os.path.lexists(folder / name)]
    found = [path.name for pattern in _RUN_PATTERNS for path in folder.glob(pattern)]
    return tuple(sorted({*names, *found}))


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there (a dangling link is)."""
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))
