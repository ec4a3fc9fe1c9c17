"""What a relative path in a configuration is relative to: never the caller's folder. Contract ids: CONFIG-016.

In: a configuration and a path as written; out: an absolute path.
"""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import TYPE_CHECKING

from coordexp.config.problems import ConfigError, KeyPath, Problem

if TYPE_CHECKING:
    from coordexp.config.types import Config

_MARKER = "pyproject.toml"


def real_path(path: Path) -> Path:
    """The path without links; one that leads nowhere, or round in a loop, as far as it goes."""
    return Path(os.path.realpath(path))


def project_root(path: Path) -> Path:
    """The nearest folder above `path` that holds pyproject.toml; this checkout when there is none."""
    for folder in path.parents:
        if os.path.isfile(folder / _MARKER):
            return folder
    return Path(__file__).resolve().parents[2]


def resolve_input(config: Config, key: str, written: str) -> Path:
    """A file or folder that must exist: absolute, beside the config file, or below the project's root, in that order.

    `key` is the dotted key it is written under. Raises `ConfigError` naming the places that were looked at.
    """
    sources = config.sources
    places = [Path(written)] if Path(written).is_absolute() else [sources.path.parent / written, sources.root / written]
    for place in places:
        # A name that is too long for the file system is one of nothing.
        if os.path.exists(place):
            return place.resolve()
    where = sources.where(key)
    looked = " and ".join(str(place) for place in places)
    path: KeyPath = tuple(key.split("."))
    raise ConfigError(str(sources.path), [Problem(path, f"{written!r} does not exist; looked at {looked}", where)])


def resolve_output(config: Config, written: str) -> Path:
    """A folder that will be written: absolute, or below the project's root."""
    return Path(written) if Path(written).is_absolute() else (config.sources.root / written).resolve()
