"""Writes files whole or not at all, and hashes them. In: a path and its content; out: the path.

Contract ids: ART-003, ART-009, ART-016.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
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
        temporary.chmod(0o666 & ~current_umask())
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
    return write_bytes(path, _encode(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)))


def write_json_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> Path:
    """Write one JSON object a line, in the order given."""
    return write_bytes(path, b"".join(map(render_json_line, values)))


def render_json_line(value: Mapping[str, Any]) -> bytes:
    """A JSON object as a line of UTF-8, whatever its texts hold."""
    return _encode(json.dumps(value, ensure_ascii=False, allow_nan=False))


def read_json_lines(path: Path) -> list[Any]:
    """The values of a file of JSON lines; raises `ValueError` with file and line for one that is no JSON.

    Lines end at a line feed alone: a text may hold other ends of lines as they are. NaN and infinities are no JSON.
    """
    values = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line:
            # A function of one's own for every float takes as long as all the rest.
            careful = _finite if _MAY_OVERFLOW.search(line) else None
            try:
                values.append(json.loads(line, parse_constant=_refuse_constant, parse_float=careful))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: no JSON: {error}") from error
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


_MAY_OVERFLOW = re.compile(rb"[eE]\+?\d{3}|\d{300}")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is larger than any number here can be")
    return value


def _encode(document: str) -> bytes:
    """A JSON document as one line of UTF-8 or more, with the same content to every reader.

    Half of a surrogate pair, which a model's text may hold, becomes JSON's escape for it. So do the line breaks that
    JSON lets stand in a string: whoever splits a file at them would tear a document apart.
    """
    for letter in ("\u0085", "\u2028", "\u2029"):
        document = document.replace(letter, f"\\u{ord(letter):04x}")
    return document.encode("utf-8", "backslashreplace") + b"\n"


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


def current_umask() -> int:
    """The bits that this process takes from the mode of a new file."""
    current = os.umask(0)
    os.umask(current)
    return current
