"""Writes files whole or not at all, and hashes them. In: a path and its content; out: the path.

Contract ids: ART-003, ART-009.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> Path:
    """Write through a temporary file in the same folder, so that a reader sees the old file or the new one, never a
    part. Without `durable` nothing waits for the disk, and a machine that loses its power may lose the file.

    Folders are created. The temporary file is removed when writing fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        # mkstemp gives 0600; an artifact is readable like any file its owner makes.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text, whole or not at all."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as indented JSON with sorted keys; NaN and infinities raise `ValueError` and leave the old file."""
    return write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> Path:
    """Write one JSON object a line, in the order given."""
    return write_text(path, "".join(json.dumps(v, ensure_ascii=False, allow_nan=False) + "\n" for v in values))


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_folder(root: Path, pattern: str = "*") -> str:
    """SHA-256 (hex) over the relative path and bytes of every file under `root` that fits `pattern`, in path order.

    Renaming, adding, removing or changing a file changes it; time stamps and the folder's own place do not.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob(pattern) if p.is_file()):
        digest.update(f"{path.relative_to(root).as_posix()}\0{hash_file(path)}\n".encode())
    return digest.hexdigest()


def hash_weights(checkpoint: Path) -> str:
    """SHA-256 (hex) over a checkpoint's weights (*.safetensors); the same weights under another folder name give the
    same.
    """
    return hash_folder(checkpoint, "*.safetensors")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
