"""Names of categories to descs: the category map, the one rule of a desc's text, and what becomes one desc.

Contract ids: DATA-043.
Enters: the categories of an annotation file and, where there is one, a map of names. Leaves: `Names`, or `DataError`.
"""

from __future__ import annotations

import difflib
import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from coordexp.data.annotation_text import check_text, read_bytes, syntax_error
from coordexp.data.errors import DataError
from coordexp.data.texts import desc_fault, normalize_desc
from coordexp.spec import RepeatedKeyError, unique_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from coordexp.data.coco import CocoCategory, CocoFile, CocoImage, Identifier

_MAP_FORM = 'a category map, {"coco name": "desc"}'
_SHOWN = 10


@dataclass(frozen=True)
class Names:
    """The desc of each category id; ids that the map leaves out are absent. `normalized` are the ids whose desc is not
    what was written; `warnings` name categories that became one desc unasked."""

    descs: Mapping[Identifier, str]
    normalized: frozenset[Identifier] = frozenset()
    warnings: tuple[str, ...] = ()

    def partly_annotated(self, images: Iterable[CocoImage]) -> list[str]:
        """The descs of which `images`, entries of one file, say that not all objects are annotated; sorted."""
        return self._named({number for image in images for number in image.not_exhaustive_category_ids or ()})

    def verified_absent(self, images: Iterable[CocoImage]) -> list[str]:
        """The descs that `images`, entries of one file, list as looked for and not there; sorted.

        Of categories that share a desc one may be there where another is not, so all of them have to be listed.
        """
        absent = {number for image in images for number in image.neg_category_ids or ()}
        return [desc for desc in self._named(absent) if self._ids_of[desc] <= absent]

    @cached_property
    def _ids_of(self) -> Mapping[str, set[Identifier]]:
        groups: dict[str, set[Identifier]] = defaultdict(set)
        for number, desc in self.descs.items():
            groups[desc].add(number)
        return groups

    def _named(self, categories: Iterable[Identifier]) -> list[str]:
        return sorted({self.descs[number] for number in categories if number in self.descs})


def load_category_map(path: Path) -> dict[str, str]:
    """COCO category names to descs from a JSON object; raises `DataError`."""
    text = check_text(read_bytes(path, _MAP_FORM), str(path), _MAP_FORM)
    try:
        mapping = json.loads(text.content, object_pairs_hook=unique_pairs)
    except RepeatedKeyError as error:
        raise DataError(f"{path}: the category {error.keys[0]!r} is written twice. Keep one of them") from error
    except (ValueError, RecursionError) as error:
        raise syntax_error(text, str(error)) from error
    if not isinstance(mapping, dict):
        raise DataError(f"{path}: it is not {_MAP_FORM}. Write such an object")
    for name, desc in mapping.items():
        if not isinstance(desc, str):
            raise DataError(
                f"{path}: {name!r} stands for {json.dumps(desc)[:60]}, not a text. Write the desc in quotes"
            )
    return mapping


def category_names(coco: CocoFile, mapping: Mapping[str, str] | None, source: Path | str) -> Names:
    """The descs of a file's categories. Raises `DataError` for a map that does not fit, and for a category that is used
    and cannot be a desc."""
    written = {category.id: category.name for category in coco.categories}
    if mapping is not None:
        written = _apply_map(coco.categories, mapping, source)
    descs = {number: normalize_desc(name) for number, name in written.items()}
    used = _used_ids(coco)
    faulty = {number: fault for number, desc in descs.items() if (fault := desc_fault(desc)) is not None}
    names = {category.id: category.name for category in coco.categories}
    for number, fault in faulty.items():
        if number in used:
            how = "" if mapping is None else f", mapped to {written[number]!r},"
            raise DataError(
                f"{source}: category id {number}: {names[number]!r}{how} cannot be a desc: {fault.message}. Rename it "
                "with --category-map"
            )
    descs = {number: desc for number, desc in descs.items() if number not in faulty}
    normalized = frozenset(number for number, desc in descs.items() if desc != written[number])
    return Names(descs, normalized, tuple(_collisions(descs, written, asked=mapping is not None)))


def _apply_map(
    categories: Iterable[CocoCategory], mapping: Mapping[str, str], source: Path | str
) -> dict[Identifier, str]:
    """What each mapped category is called; names match as written, or after both are normalized."""
    by_normal: dict[str, tuple[str, str]] = {}
    for name, desc in mapping.items():
        normal = normalize_desc(name)
        before = by_normal.setdefault(normal, (name, desc))
        if before[1] != desc:
            raise DataError(
                f"category map: {before[0]!r} and {name!r} are one name after normalizing and stand for {before[1]!r} "
                f"and {desc!r}. Keep one of them"
            )
    known = {category.name for category in categories}
    normals = {normalize_desc(name) for name in known}
    unknown = [name for name in mapping if name not in known and normalize_desc(name) not in normals]
    if unknown:
        near = difflib.get_close_matches(unknown[0], sorted(known)[:1000], n=1)
        likely = f"; perhaps {near[0]!r}" if near else ""
        more = f" (and {len(unknown) - 1} others)" if len(unknown) > 1 else ""
        raise DataError(
            f"category map: {source} has no category {unknown[0]!r}{more}{likely}; it has {_listed(sorted(known))}. "
            "Remove what the file does not have"
        )
    called: dict[Identifier, str] = {}
    for category in categories:
        normal = normalize_desc(category.name)
        if category.name in mapping:
            called[category.id] = mapping[category.name]
        elif normal in by_normal:
            called[category.id] = by_normal[normal][1]
    return called


def _used_ids(coco: CocoFile) -> set[Any]:
    used: set[Any] = {found.category_id for found in coco.annotations}
    for image in coco.images:
        used.update(image.neg_category_ids or ())
        used.update(image.not_exhaustive_category_ids or ())
    return used


def _collisions(descs: Mapping[Identifier, str], written: Mapping[Identifier, str], *, asked: bool) -> Iterable[str]:
    """A warning for each desc of several categories, unless the map gave all of them the same text."""
    groups: dict[str, list[Identifier]] = defaultdict(list)
    for number, desc in descs.items():
        groups[desc].append(number)
    for desc, ids in groups.items():
        texts = {written[number] for number in ids}
        if len(ids) > 1 and not (asked and len(texts) == 1):
            shown = _listed([f"id {number} {written[number]!r}" for number in ids])
            yield f"{len(ids)} categories become the one desc {desc!r}: {shown}; tell them apart with --category-map"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
