"""Where an image file lies: under the configured root, ROOT_IMAGE_DIR or its JSONL's folder; never under the cwd.

Learner and rollout server both ask here, so they agree. Contract ids: DATA-015, DATA-016.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from coordexp.data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordexp.data.types import Record

ROOT_VARIABLE = "ROOT_IMAGE_DIR"
ROOT_REMEDY = f"move it there, or set {ROOT_VARIABLE} to a folder that holds it"


class ImagePathError(DataError):
    """An image path that leaves its root, or a root that is no folder."""


class OutsideRootError(ImagePathError):
    """An image path that leaves its root: `fault` says so without its `file:line`, `remedy` what to do."""

    def __init__(self, source: Path | str, fault: str, remedy: str) -> None:
        super().__init__(f"{source}: {fault}; {remedy}")
        self.fault, self.remedy = fault, remedy


def image_root(jsonl: Path | str, environ: Mapping[str, str], configured: Path | None = None) -> Path:
    """The folder that image paths of `jsonl` are relative to.

    `configured` (custom.image_root) when it is given, else ROOT_IMAGE_DIR when it is set, else the JSONL's own folder.
    Raises `ImagePathError` when the first two are relative or no folder.
    """
    if configured is not None:
        return _check_root(configured, f"custom.image_root = {configured}")
    if ROOT_VARIABLE in environ:
        return _check_root(Path(environ[ROOT_VARIABLE]), f"{ROOT_VARIABLE}={environ[ROOT_VARIABLE]!r}")
    return Path(jsonl).absolute().parent


def _check_root(root: Path, given: str) -> Path:
    if not root.is_absolute():
        raise ImagePathError(f"{given} is not absolute, so it would depend on the working folder; write the whole path")
    if not root.is_dir():
        raise ImagePathError(f"{given} is not a folder; leave it out or name the folder that image paths start from")
    return root


def resolve_image(source: Path | str, image: str, root: Path | str | None = None, *, remedy: str = ROOT_REMEDY) -> Path:
    """Absolute path of a record's image; the file need not exist.

    `source` is the record's `file:line` or its JSONL; its folder is the root unless `root` is given; `remedy` is what
    an error advises. Symlinks are
    followed before the check, so a link may not lead outside either. Raises `OutsideRootError` when the path leaves the
    root.
    """
    base = Path(os.path.realpath(root if root is not None else _jsonl_of(source).absolute().parent))
    found = Path(os.path.realpath(base / image))
    if not found.is_relative_to(base):
        raise OutsideRootError(source, f"image {image!r} is {found}, outside its root {base}", remedy)
    return found


def resolve_record_images(record: Record, root: Path | str | None = None) -> tuple[Path, ...]:
    """Absolute paths of a record's images, in order."""
    return tuple(resolve_image(record.source, image, root) for image in record.images)


def _jsonl_of(source: Path | str) -> Path:
    file, _, line = str(source).rpartition(":")
    return Path(file) if file and line.isdigit() else Path(source)
