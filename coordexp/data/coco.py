"""COCO-style annotations, typed. Enters: a JSON file. Leaves: `CocoFile`; a malformed one raises with its JSON path.

Read as found: UTF-8 with BOM; `iscrowd` and `ignore` as 0, 1 or booleans; annotation ids in any form or none; image and
category ids as integers (2.0 is 2) or texts; an image named by `coco_url`. Other keys than those read here are COCO's
own business and are let through. Contract ids: DATA-009, DATA-040..DATA-042.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from coordexp.data.annotation_text import check_text, decode_typed, read_bytes
from coordexp.data.coco_keys import check_keys
from coordexp.data.coco_rules import COCO_FORM, PIXEL_LIMIT, coco_error, shown
from coordexp.data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

Identifier = int | float | str
"""An id as files write it; `parse_coco` leaves integers and texts."""
_Flag = bool | int | float | None


class CocoImage(msgspec.Struct, frozen=True):
    """An image: `name` is relative to the image folder, sizes in pixels.

    Category ids of LVIS: `neg_category_ids` are verified absent, `not_exhaustive_category_ids` only partly annotated.
    """

    id: Identifier
    width: int | float
    height: int | float
    file_name: str | None = None
    coco_url: str | None = None
    flickr_url: str | None = None
    neg_category_ids: list[Identifier] | None = None
    not_exhaustive_category_ids: list[Identifier] | None = None

    @property
    def name(self) -> str:
        """`file_name`, or the last part of an address: of `file_name` itself, `coco_url` or `flickr_url`."""
        if self.file_name and self.file_name.strip() and "://" not in self.file_name:
            return self.file_name
        addresses = (self.file_name, self.coco_url, self.flickr_url)
        address = next((text for text in addresses if text and text.strip()), "")
        return unquote(urlsplit(address.strip()).path).rpartition("/")[2]


class CocoAnnotation(msgspec.Struct, frozen=True):
    """An object.

    `bbox` is x, y, width, height in pixels; `segmentation` is a list of flat polygons, or RLE for crowds. `area`, which
    evaluation alone reads, may be anything. Nothing depends on `id`, which messages alone name.
    """

    image_id: Identifier
    category_id: Identifier
    bbox: tuple[float, float, float, float]
    id: Any = None
    iscrowd: _Flag = 0
    ignore: _Flag = 0
    area: Any = None
    segmentation: Any = None

    @property
    def ignored(self) -> str | None:
        """Why it is a region to ignore and no object: `crowd` or `ignore`; None for an object."""
        if self.iscrowd:
            return "crowd"
        return "ignore" if self.ignore else None


class CocoCategory(msgspec.Struct, frozen=True):
    """A category's name."""

    id: Identifier
    name: str


class CocoFile(msgspec.Struct, frozen=True):
    """A whole annotation file."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]

    @property
    def federated(self) -> bool:
        """Whether not every category was looked for in every image, as in LVIS."""
        return any(image.neg_category_ids is not None for image in self.images)


_Entry = TypeVar("_Entry", CocoImage, CocoAnnotation, CocoCategory)


def parse_coco(content: bytes, source: str) -> CocoFile:
    """Annotations from JSON bytes; raises `DataError` naming `source` and the place."""
    text = check_text(content, source, COCO_FORM)
    coco = decode_typed(text, CocoFile, _is_sound, coco_error)
    check_keys(text)
    coco = _with_integers(coco)
    _check_unique("images", [image.id for image in coco.images], source)
    _check_unique("categories", [category.id for category in coco.categories], source)
    _check_kinds(coco, source)
    return coco


def load_coco(path: Path) -> tuple[CocoFile, bytes]:
    """Annotations and the file's bytes. Raises `DataError`."""
    content = read_bytes(path, COCO_FORM)
    return parse_coco(content, str(path)), content


def _is_sound(coco: CocoFile) -> bool:
    """Whether the values that types alone do not judge are in order."""
    images = all(
        _is_id(image.id)
        and PIXEL_LIMIT >= image.width == int(image.width) > 0
        and PIXEL_LIMIT >= image.height == int(image.height) > 0
        and "\0" not in image.name
        and bool(image.name.strip())
        and all(map(_is_id, image.neg_category_ids or ()))
        and all(map(_is_id, image.not_exhaustive_category_ids or ()))
        for image in coco.images
    )
    return (
        images
        and all(_is_id(category.id) for category in coco.categories)
        and all(
            _is_id(found.image_id)
            and _is_id(found.category_id)
            and (not found.iscrowd or found.iscrowd == 1)
            and (not found.ignore or found.ignore == 1)
            and max(found.bbox) <= PIXEL_LIMIT
            and min(found.bbox) >= -PIXEL_LIMIT
            for found in coco.annotations
        )
    )


def _is_id(value: Identifier) -> bool:
    return not isinstance(value, float) or value.is_integer()


def _with_integers(coco: CocoFile) -> CocoFile:
    """The same file with integers for ids and sizes that were written with a point."""
    return CocoFile(
        [_integers(image, ("id", "width", "height")) for image in coco.images],
        [_integers(found, ("image_id", "category_id")) for found in coco.annotations],
        [_integers(category, ("id",)) for category in coco.categories],
    )


def _integers(entry: _Entry, keys: tuple[str, ...]) -> _Entry:
    changed = {key: int(value) for key in keys if isinstance(value := getattr(entry, key), float)}
    return msgspec.structs.replace(entry, **changed) if changed else entry


def _check_unique(name: str, ids: Sequence[Identifier], source: str) -> None:
    """Ids of one list are of one kind and unique; one pass, whatever repeats."""
    first: dict[Identifier, int] = {}
    for index, value in enumerate(ids):
        if isinstance(value, str) != isinstance(ids[0], str):
            raise DataError(
                f"{source}: {name}[{index}].id is {shown(value)} and {name}[0].id {shown(ids[0])}: ids are all numbers "
                "or all texts. Write them one way"
            )
        before = first.setdefault(value, index)
        if before != index:
            raise DataError(
                f"{source}: {name} holds id {shown(value)} twice, in {name}[{before}] and {name}[{index}]; ids are "
                "unique. Give each a number of its own, or remove one"
            )


def _check_kinds(coco: CocoFile, source: str) -> None:
    """Refuse references that name nothing only because "1" and 1 are different ids."""
    images = {image.id for image in coco.images}
    categories = {category.id for category in coco.categories}
    _check_references(
        "images", images, ((f"annotations[{i}].image_id", a.image_id) for i, a in enumerate(coco.annotations)), source
    )
    _check_references(
        "categories",
        categories,
        ((f"annotations[{i}].category_id", a.category_id) for i, a in enumerate(coco.annotations)),
        source,
    )
    listed = (
        (f"images[{i}].{key}", value)
        for i, image in enumerate(coco.images)
        for key, values in (
            ("neg_category_ids", image.neg_category_ids),
            ("not_exhaustive_category_ids", image.not_exhaustive_category_ids),
        )
        for value in values or ()
    )
    _check_references("categories", categories, listed, source)


def _check_references(
    name: str, known: set[Identifier], references: Iterable[tuple[str, Identifier]], source: str
) -> None:
    texts: set[str] | None = None
    for place, value in references:
        if value in known:
            continue
        if texts is None:
            texts = {str(number) for number in known}
        if str(value) in texts:
            kinds = ("the text", "the number") if isinstance(value, str) else ("the number", "the text")
            raise DataError(
                f"{source}: {place} is {kinds[0]} {shown(value)}, and the id in {name} {kinds[1]}: they never match. "
                "Write both one way"
            )
