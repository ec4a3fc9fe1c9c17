"""Names that may be meant, and where missing images would have been found. Contract ids: DATA-042, DATA-049.

Enters: the folder that was named and a few of the missing file names. Leaves: one sentence of advice, or none. It looks
at a bounded number of places, whatever lies there.
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from unicodedata import normalize
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_CHANGES: tuple[Callable[[str], str], ...] = (
    lambda name: name.replace("\\", "/"),
    unquote,
    str.strip,
    lambda name: normalize("NFC", name),
    lambda name: normalize("NFD", name),
)
_PARENTS, _CHILDREN, _GRANDCHILDREN, _LISTED = 3, 200, 20, 20_000


def spellings(name: str) -> list[str]:
    """A file name as it is written, and as tools mean it: of Windows, escaped for a URL, padded, in NFC or in NFD."""
    found = [name]
    for change in _CHANGES:
        found += [changed for changed in map(change, tuple(found)) if changed not in found]
    return found


def advise_on_missing(folder: Path, missing: Sequence[str], annotations: Path) -> str | None:
    """What to change so that `missing` (names relative to `folder`) are found; None when no place has any of them."""
    ways = [spellings(name) for name in missing]
    best, found = None, 0
    for candidate in _candidates(folder, annotations):
        here = sum(any(os.path.isfile(candidate / name) for name in names) for names in ways)
        if here > found:
            best, found = candidate, here
        if found == len(ways):
            break
    names = [way[0].replace("\\", "/") for way in ways]
    if best is None:
        return _advise_on_depth(folder, names) or _advise_on_names(folder, names, same_suffix=False)
    there = f"--images {best} would find {found} of the {len(ways)} that were tried"
    near = _advise_on_names(folder, names, same_suffix=True)
    return f"{near}; or {there}" if near else there


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


def _advise_on_depth(folder: Path, names: Sequence[str]) -> str | None:
    """Advice on leading parts of `file_name` that are too many."""
    for name in names:
        parts = PurePosixPath(name.lstrip("/")).parts
        for drop in range(1 if not name.startswith("/") else 0, len(parts)):
            shorter = "/".join(parts[drop:])
            if os.path.isfile(folder / shorter):
                return f"{shorter!r} is there: remove {name[: len(name) - len(shorter)]!r} from file_name"
    return None


def _advise_on_names(folder: Path, names: Sequence[str], *, same_suffix: bool) -> str | None:
    """Advice on names that differ in case alone, or, where the suffix need not be the `same_suffix`, in that."""
    for name in names:
        wanted = PurePosixPath(name)
        try:
            with os.scandir(folder / wanted.parent) as entries:
                listed = sorted(entry.name for entry in islice(entries, _LISTED))
        except OSError:
            continue
        near = [there for there in listed if there.casefold() == wanted.name.casefold()]
        if not near and not same_suffix:
            stems = (wanted.stem.casefold(), wanted.name.casefold())
            near = [there for there in listed if PurePosixPath(there).stem.casefold() in stems]
        if near:
            return f"{near[0]!r} is there in place of {wanted.name!r}: write file_name as the file is called"
    return None
