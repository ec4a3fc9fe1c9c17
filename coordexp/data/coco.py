"""COCO-style annotations, typed. Enters: a JSON file. Leaves: `CocoFile`; a malformed one raises with its JSON path.

Other keys than those read here are COCO's own business and are let through. Contract ids: DATA-009.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from coordexp.data.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


class CocoImage(msgspec.Struct, frozen=True):
    """An image: `file_name` is relative to the image folder, sizes in pixels."""

    id: int
    file_name: str
    width: int
    height: int
    neg_category_ids: list[int] | None = None
    not_exhaustive_category_ids: list[int] | None = None


class CocoAnnotation(msgspec.Struct, frozen=True):
    """An object.

    `bbox` is x, y, width, height in pixels; `segmentation` is a list of flat polygons, or RLE for crowds.
    """

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    ignore: int = 0
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

    id: int
    name: str


class CocoFile(msgspec.Struct, frozen=True):
    """A whole annotation file."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


def parse_coco(content: bytes, source: str) -> CocoFile:
    """Annotations from JSON bytes; raises `DataError` naming `source` and the JSON path."""
    try:
        coco = msgspec.json.decode(content, type=CocoFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{source}: not COCO-style annotations: {error}. Give images, annotations and categories as COCO does"
        ) from error
    for name, ids in (
        ("images", [image.id for image in coco.images]),
        ("categories", [kind.id for kind in coco.categories]),
    ):
        if len(set(ids)) != len(ids):
            twice = next(number for number in ids if ids.count(number) > 1)
            raise DataError(f"{source}: {name} holds id {twice} twice; ids are unique")
    return coco


def load_coco(path: Path) -> tuple[CocoFile, bytes]:
    """Annotations and the file's bytes. Raises `DataError`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a COCO-style annotation file") from error
    return parse_coco(content, str(path)), content
