"""Folders and files that appear whole or not at all, and never replace what is there. Contract ids: DATA-011."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME_PART = 40
"""Characters of a folder's name that its partial one begins with: names end at 255 bytes."""


@contextmanager
def build_folder(target: Path) -> Iterator[Path]:
    """A sibling folder that takes the name `target` when the block ends without an error, else vanishes.

    Raises `DataError` when `target` exists and holds anything, and where the system refuses to write.
    """
    check_free(target)
    partial: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name[:_NAME_PART]}.partial-", dir=target.parent))
        yield partial
        check_free(target)
        if target.exists():
            target.rmdir()
        partial.chmod(0o755)
        os.replace(partial, target)
    except OSError as error:
        raise DataError(
            f"{target}: could not be written ({error.strerror or error}); nothing of it is left. Make room there, or "
            "choose another --out"
        ) from error
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial)


def check_free(target: Path) -> Path:
    """Return `target` if it does not exist or is an empty folder; raise `DataError` otherwise."""
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise DataError(
            f"{target}: exists and is not an empty folder; nothing is overwritten: remove it or choose another --out"
        )
    return target


def write_json(path: Path, payload: Any) -> None:
    """Write JSON with sorted keys, so equal content means equal bytes."""
    path.write_text(json.dumps(payload, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
