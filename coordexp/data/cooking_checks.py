"""Suspicion while cooking: boxes that are no x, y, width, height in pixels, much that was dropped, nothing left.

Enters: annotations, or what was counted of them. Leaves: warnings as texts, or `DataError` where nothing good can come.
Contract ids: DATA-046, DATA-047, DATA-048.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coordexp.data.coco_rules import shown
from coordexp.data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from coordexp.data.coco import CocoFile, Identifier
    from coordexp.data.cooking_types import CookOptions, DropCounts

DROP_SHARE = 0.05
"""Above this share of dropped objects or records there is a warning."""
BEYOND_SHARE = 0.5
"""From this share of boxes on that reach beyond their image there is a warning, whatever explains them."""
EXPLAINED_SHARE = 0.1
"""From this share on there is one where another notation explains nearly every box of the file."""
FEW = 3
"""Boxes that an image, or a notation that explains the file, needs before it is suspicious alone."""
_NAMED_CATEGORIES = 10
_NEARLY_ALL = 0.99
_SLACK_PIXELS, _SLACK_SHARE = 2.0, 0.02


@dataclass(frozen=True, slots=True)
class _Boxes:
    """Boxes with an area on an image of the file: place in `annotations` [N], x, y, w, h [N, 4], extents [N, 2]."""

    places: NDArray[np.int64]
    values: NDArray[np.float64]
    extents: NDArray[np.float64]
    images: NDArray[np.int64]


def check_boxes(coco: CocoFile, source: str) -> list[str]:
    """Warnings on boxes that are hardly x, y, width, height in pixels; raises `DataError` for boxes in [0, 1]."""
    boxes = _gather(coco)
    if not len(boxes.places):
        return []
    _check_divided(boxes, coco, source)
    warning = _beyond_warning(boxes, coco)
    return [] if warning is None else [warning]


def _gather(coco: CocoFile) -> _Boxes:
    rows = {image.id: row for row, image in enumerate(coco.images)}
    sizes = np.array([(image.width, image.height) for image in coco.images], dtype=float).reshape(-1, 2)
    images = np.array([rows.get(found.image_id, -1) for found in coco.annotations], dtype=np.int64)
    values = np.array([found.bbox for found in coco.annotations], dtype=float).reshape(-1, 4)
    (places,) = np.nonzero((images >= 0) & (values[:, 2] > 0) & (values[:, 3] > 0))
    return _Boxes(places, values[places], sizes[images[places]], images[places])


def _check_divided(boxes: _Boxes, coco: CocoFile, source: str) -> None:
    """A box in [0, 1] with a fraction was divided by the image's size; the record contract refuses it too."""
    divided = (boxes.values <= 1).all(axis=1) & (boxes.values >= 0).all(axis=1)
    divided &= (boxes.values != np.trunc(boxes.values)).any(axis=1)
    if divided.any():
        first = int(boxes.places[np.flatnonzero(divided)[0]])
        raise DataError(
            f"{source}: {_describe(coco, first)} lies in [0, 1], as {int(divided.sum())} of {len(divided)} boxes do: "
            "it looks divided by the image's size already. COCO's bbox is in pixels: multiply x and width by the "
            "image's width, y and height by its height; remove the annotation if it is no object"
        )


def _beyond_warning(boxes: _Boxes, coco: CocoFile) -> str | None:
    """The warning where most boxes reach beyond their image, or some do and another notation explains all of them."""
    x, y, width, height = boxes.values.T
    columns, rows = boxes.extents.T
    across, down = (np.maximum(_SLACK_PIXELS, _SLACK_SHARE * extent) for extent in (columns, rows))
    beyond = (x + width > columns + across) | (y + height > rows + down) | (x < -across) | (y < -down)
    inside = (width <= columns + across) & (height <= rows + down) & (x >= 0) & (y >= 0)
    corners = inside & (width > x) & (height > y)
    centers = (x - width / 2 >= -across) & (x + width / 2 <= columns + across)
    centers &= (y - height / 2 >= -down) & (y + height / 2 <= rows + down)
    whole_images = _all_of_an_image(boxes.images, beyond)
    # A file of true sizes hardly reads as corners throughout; boxes in the middle of images do read as centres.
    explained = beyond.mean() >= EXPLAINED_SHARE and (
        (len(beyond) >= FEW and corners.mean() >= _NEARLY_ALL)
        or (beyond.sum() >= FEW and centers.mean() >= _NEARLY_ALL)
    )
    if beyond.mean() < BEYOND_SHARE and not whole_images.any() and not explained:
        return None
    suspected = whole_images if whole_images.any() else beyond
    fits = {"corners": int((corners & suspected).sum()), "centers": int((centers & suspected).sum())}
    notation = max(fits, key=lambda name: fits[name])
    likely = fits[notation] >= BEYOND_SHARE * suspected.sum()
    advice = f"{fits[notation]} of them would fit as {_ADVICE[notation]}" if likely else _ADVICE["neither"]
    place = int(np.flatnonzero(suspected)[0])
    count = f"all {len(beyond)}" if beyond.all() else f"{int(beyond.sum())} of {len(beyond)}"
    return (
        f"{count} boxes reach beyond their image, such as {_describe(coco, int(boxes.places[place]))} on "
        f"{int(columns[place])}x{int(rows[place])}; {advice}"
    )


_ADVICE = {
    "corners": "corners x1, y1, x2, y2. COCO's bbox is x, y, width, height: write x2 − x1 and y2 − y1",
    "centers": (
        "a centre with width and height, as YOLO writes them. COCO's bbox begins at the upper left corner: subtract "
        "half of width and height from x and y"
    ),
    "neither": "perhaps they were made for images of another size: compare width and height with what was annotated",
}


def _all_of_an_image(images: NDArray[np.int64], beyond: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether all boxes of a box's image, `FEW` at least, reach beyond it."""
    of_image = np.bincount(images)
    reaching = np.bincount(images, weights=beyond)
    result: NDArray[np.bool_] = ((of_image >= FEW) & (reaching == of_image))[images]
    return result


def _describe(coco: CocoFile, place: int) -> str:
    found = coco.annotations[place]
    ids = f"image id {shown(found.image_id)}"
    if isinstance(found.id, int | float | str):
        ids = f"annotation id {shown(found.id)}, {ids}"
    return f"annotations[{place}].bbox ({ids}) {shown([int(v) if v == int(v) else v for v in found.bbox])}"


def check_references(coco: CocoFile) -> list[str]:
    """Warnings on annotations of a category or an image that the file does not have: they are dropped, and counted."""
    kinds, images = [kind.id for kind in coco.categories], [image.id for image in coco.images]
    return [
        *_lost_warning("a category", "category_id", [found.category_id for found in coco.annotations], kinds),
        *_lost_warning("an image", "image_id", [found.image_id for found in coco.annotations], images),
    ]


def _lost_warning(what: str, key: str, named: list[Identifier], known: list[Identifier]) -> list[str]:
    there = set(known)
    lost = [row for row, number in enumerate(named) if number not in there]
    if not lost:
        return []
    ids = ", ".join(shown(number) for number in known[:FEW]) + (", …" if len(known) > FEW else "")
    example = f"annotations[{lost[0]}].{key} {shown(named[lost[0]])}"
    count = f"{len(lost)} of {len(named)} annotations name {what} that the file does not have"
    return [
        f"{count}, such as {example}; the ids there are {ids or 'none'}. Correct the ids, or remove the annotations"
    ]


def left_out_by_map(coco: CocoFile, mapped: Collection[Identifier]) -> list[str]:
    """A line on the categories of the file that a category map leaves out, where there are any; `mapped` has ids."""
    out = [shown(kind.name) for kind in coco.categories if kind.id not in mapped]
    more = ", …" if len(out) > _NAMED_CATEGORIES else ""
    words = f"unmapped_category: --category-map has no entry for {', '.join(out[:_NAMED_CATEGORIES])}{more}"
    return [f"{words}; add those whose objects are to be kept"] if out else []


def drop_warnings(counts: DropCounts) -> list[str]:
    """A warning each where more than `DROP_SHARE` of the records, or of the objects, were dropped.

    Objects that went with their record are left to the warning on records, where there is one.
    """
    warnings: list[str] = []
    for what, dropped, total in (
        ("records", counts.records_dropped, counts.records_input),
        ("objects", counts.objects_dropped, counts.objects_input),
    ):
        reasons = {reason: count for reason, count in dropped.items() if not (warnings and reason == "record_dropped")}
        lost = sum(reasons.values())
        if lost > DROP_SHARE * total:
            commonest = max(reasons, key=lambda reason: reasons[reason])
            share = f"{lost} of {total} {what} ({lost / total:.0%})"
            warnings.append(f"{share} are dropped, most of them as {commonest} ({reasons[commonest]})")
    return warnings


def check_anything_left(counts: DropCounts, options: CookOptions, source: str) -> None:
    """Raise `DataError` when no record is left, or records without one object, unless they are meant as background."""
    if counts.records_kept and (counts.objects_kept or options.background):
        return
    if not counts.records_input:
        raise DataError(f"{source}: images is empty: there is no image to cook. Name a file with images")
    objects = f"{counts.objects_input} objects: {_listed(counts.objects_ignored, counts.objects_dropped)}"
    records = f"{counts.records_input} images: {_listed(counts.records_dropped)}"
    if not counts.records_kept:
        raise DataError(f"{source}: no record is left to write. Of {records}; of {objects}")
    if not counts.objects_input:
        what = f"the file has no annotations, only {counts.records_input} images"
    else:
        what = f"no object is left. Of {objects}; of {records}"
    raise DataError(
        f"{source}: nothing is left to learn: {what}. Correct what the reasons name; --background if images without "
        "objects are meant"
    )


def _listed(*counters: Any) -> str:
    parts = [f"{count} {reason}" for counter in counters for reason, count in counter.items() if count]
    return ", ".join(parts) or "none dropped"
