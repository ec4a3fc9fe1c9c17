"""Where missing images would have been found: other folders for --images, and other names. Contract ids: DATA-049.

Enters: the folder that was named and a few of the missing file names. Leaves: one sentence of advice, or none. It looks
at a bounded number of places, whatever lies there.
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PARENTS, _CHILDREN, _GRANDCHILDREN, _LISTED = 3, 200, 20, 20_000


def advise_on_missing(folder: Path, missing: Sequence[str], annotations: Path) -> str | None:
    """What to change so that `missing` (names relative to `folder`) are found; None when no place has any of them."""
    names = [name.replace("\\", "/") for name in missing]
    best, found = None, 0
    for candidate in _candidates(folder, annotations):
        here = sum(os.path.isfile(candidate / name) for name in names)
        if here > found:
            best, found = candidate, here
        if found == len(names):
            break
    if best is not None:
        return f"--images {best} would find {found} of the {len(names)} that were tried"
    return _advise_on_names(folder, names)


def _candidates(folder: Path, annotations: Path) -> Iterator[Path]:
    """Folders above, below and beside the one that was named, and those around the annotation file."""
    seen = {folder.resolve()}
    base = folder.absolute()
    above = [base.parents[index] for index in range(min(_PARENTS, len(base.parents)))]
    beside_file = [annotations.absolute().parent, *list(annotations.absolute().parents)[1:2]]
    children = list(_folders(base, _CHILDREN))
    siblings = list(_folders(base.parent, _CHILDREN))
    parents = (*children[:_GRANDCHILDREN], *siblings[:_GRANDCHILDREN])
    deeper = [inner for child in parents for inner in _folders(child, _GRANDCHILDREN)]
    for candidate in (*above, *children, *beside_file, *siblings, *deeper):
        if candidate.resolve() not in seen:
            seen.add(candidate.resolve())
            yield candidate


def _folders(folder: Path, limit: int) -> Iterator[Path]:
    """Sub-folders by name, of the first entries."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entry.path for entry in islice(entries, _LISTED) if entry.is_dir())
    except OSError:
        return
    yield from (Path(path) for path in found[:limit])


def _advise_on_names(folder: Path, names: Sequence[str]) -> str | None:
    """Advice on leading parts of `file_name` that are too many, and on names that differ in case or suffix."""
    for name in names:
        parts = PurePosixPath(name.lstrip("/")).parts
        for drop in range(1 if not name.startswith("/") else 0, len(parts)):
            shorter = "/".join(parts[drop:])
            if os.path.isfile(folder / shorter):
                return f"{shorter!r} is there: remove {name[: len(name) - len(shorter)]!r} from file_name"
    for name in names:
        wanted = PurePosixPath(name)
        try:
            with os.scandir(folder / wanted.parent) as entries:
                near = sorted(
                    entry.name
                    for entry in islice(entries, _LISTED)
                    if PurePosixPath(entry.name).stem.casefold() in (wanted.stem.casefold(), wanted.name.casefold())
                )
        except OSError:
            continue
        if near:
            return f"{near[0]!r} is there in place of {wanted.name!r}: write file_name as the file is called"
    return None
