"""What is wrong with a file of annotations or results that is JSON but not COCO's: one message a fault, with its path.

Enters: the untyped payload. Leaves: `DataError` that names the place, what it holds, the ids of the annotation and its
image, and what to write. `coordexp.data.coco` and `coordexp.data.coco_results` are the quick way to the same verdict.
Contract ids: DATA-042.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from coordexp.data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COCO_FORM = 'COCO-style annotations, {"images": […], "annotations": […], "categories": […]}'
RESULTS_FORM = 'COCO results, a list of {"image_id": …, "category_id": …, "bbox": [x, y, width, height], "score": …}'
LISTS = ("images", "annotations", "categories")
"""Keys of the file that are read."""
_OTHER_FORMS = (
    (("shapes", "imagePath"), "LabelMe's form for one image"),
    (("_via_img_metadata",), "a project of the VGG Image Annotator"),
    (("metainfo", "data_list"), "MMDetection's form"),
    (("flags", "shapes"), "LabelMe's form for one image"),
    (("images", "width", "height", "objects"), "a record that is cooked already, and trained on as it is"),
)
_OTHER_ANNOTATIONS = (
    ("segments_info", "COCO's panoptic form (segments_info)"),
    ("caption", "COCO's captions"),
)
PIXEL_LIMIT = 10**9
"""No size and no coordinate is beyond it; sums of two stay exact."""
_COUNTED_FAULTS = 1000
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class CocoFault:
    """A fault: its JSON path, the ids that tell which entry it is, what is wrong and what to do."""

    pointer: str
    ids: str
    message: str
    remedy: str

    def __str__(self) -> str:
        ids = f" ({self.ids})" if self.ids else ""
        return f"{self.pointer}{ids}: {self.message}. {self.remedy}"


def coco_error(payload: Any, source: str, reported: str) -> DataError:
    """The first fault of `payload` and how many follow; `reported` is the decoder's word, where no rule finds one."""
    if not isinstance(payload, dict):
        return DataError(f"{source}: {_describe_value(payload)}, not {COCO_FORM}. Write such an object")
    return _first_fault(coco_faults(payload), source, f"not {COCO_FORM}: {reported}. Write it as COCO does")


def results_error(payload: Any, source: str, reported: str) -> DataError:
    """The same of COCO results."""
    if not isinstance(payload, list):
        return DataError(f"{source}: the file holds {kind_of(payload)}, not {RESULTS_FORM}. Write such a list")
    return _first_fault(result_faults(payload), source, f"not {RESULTS_FORM}: {reported}. Write it as COCO does")


def _first_fault(found: Iterator[CocoFault], source: str, otherwise: str) -> DataError:
    faults = list(islice(found, _COUNTED_FAULTS))
    if not faults:
        return DataError(f"{source}: {otherwise}")
    more = len(faults) - 1
    least = "at least " if len(faults) == _COUNTED_FAULTS else ""
    return DataError(f"{source}: {faults[0]}" + (f"; faults after it: {least}{more}" if more else ""))


def coco_faults(payload: dict[str, Any]) -> Iterator[CocoFault]:
    """Every fault in reading order: the lists, then images, categories, annotations."""
    missing = [key for key in LISTS if key not in payload]
    if missing:
        form = next((name for keys, name in _OTHER_FORMS if all(key in payload for key in keys)), "")
        form = form or _annotation_form(payload)
        has = ", ".join(map(repr, list(payload)[:12])) or "no key"
        looks = f"; it looks like {form}" if form else ""
        remedy = f"Write {COCO_FORM}; lists may be empty"
        yield CocoFault(", ".join(missing), "", f"missing; the file has {has}{looks}", remedy)
    for key in LISTS:
        entries = payload.get(key, [])
        if not isinstance(entries, list):
            yield CocoFault(key, "", f"it is a list, got {kind_of(entries)}", "Write a list of objects")
            continue
        for index, entry in enumerate(entries):
            at = f"{key}[{index}]"
            if isinstance(entry, dict):
                yield from _ENTRY_RULES[key](entry, at)
            else:
                yield CocoFault(at, "", f"it is an object, got {kind_of(entry)}", "Write it as COCO does")


def _annotation_form(payload: dict[str, Any]) -> str:
    """What the first annotation tells of the file; empty where that is nothing."""
    entries = payload.get("annotations")
    first = entries[0] if isinstance(entries, list) and entries else None
    forms = (form for key, form in _OTHER_ANNOTATIONS if isinstance(first, dict) and key in first)
    return next(forms, "")


def result_faults(payload: list[Any]) -> Iterator[CocoFault]:
    """Every fault of COCO results in reading order, at its place in the list (from 0)."""
    for index, entry in enumerate(payload):
        at = f"[{index}]"
        if not isinstance(entry, dict):
            yield CocoFault(at, "", f"it is an object, got {kind_of(entry)}", "Write it as COCO does")
            continue
        ids = _ids(entry, "image", "image_id")
        yield from _id_faults(entry, "image_id", at, ids)
        yield from _id_faults(entry, "category_id", at, ids)
        boxes = list(_box_faults(entry, f"{at}.bbox", ids))
        yield from boxes
        if not boxes and min(entry["bbox"][2:]) < 0:
            message = f"width and height are 0 or more, got {shown(entry['bbox'])}"
            yield CocoFault(f"{at}.bbox", ids, message, "Write [x, y, width, height], not two corners, in pixels")
        if "score" not in entry:
            yield CocoFault(f"{at}.score", ids, "missing", "Write how sure the detector was: COCO ranks by it")
        elif not _is_number(entry["score"]):
            yield CocoFault(f"{at}.score", ids, f"a score is a number, got {kind_of(entry['score'])}", "Write a number")


def _image_faults(image: dict[str, Any], at: str) -> Iterator[CocoFault]:
    ids = _ids(image, "image")
    yield from _id_faults(image, "id", at, ids)
    for key in ("width", "height"):
        yield from _size_faults(image, key, at, ids)
    names = [key for key in ("file_name", "coco_url", "flickr_url") if image.get(key) is not None]
    for key in names:
        if not isinstance(image[key], str):
            yield CocoFault(f"{at}.{key}", ids, f"it is a text, got {kind_of(image[key])}", "Write the image's path")
        elif "\0" in image[key] or "%00" in image[key]:
            yield CocoFault(f"{at}.{key}", ids, "it holds a zero character", "Write the image's path")
    if not any(isinstance(image[key], str) and image[key].strip() for key in names):
        yield CocoFault(f"{at}.file_name", ids, "missing or blank, and no coco_url stands in", "Write the image's path")
    elif not any(isinstance(image[key], str) and not image[key].rstrip().endswith("/") for key in names):
        yield CocoFault(f"{at}.{names[0]}", ids, f"{shown(image[names[0]])} names no file", "Write the image's path")
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        listed = image.get(key)
        if listed is not None and not isinstance(listed, list):
            yield CocoFault(f"{at}.{key}", ids, f"it is a list of ids, got {kind_of(listed)}", "Write a list")
        for index, value in enumerate(listed if isinstance(listed, list) else ()):
            yield from _id_value_faults(value, f"{at}.{key}[{index}]", ids)


def _size_faults(image: dict[str, Any], key: str, at: str, ids: str) -> Iterator[CocoFault]:
    remedy = "Write the image's size in pixels, as its boxes assume it"
    value = image.get(key)
    if value is None:
        yield CocoFault(f"{at}.{key}", ids, "null" if key in image else "missing", remedy)
    elif not _is_number(value) or value != value // 1:
        yield CocoFault(f"{at}.{key}", ids, f"a size is an integer, got {kind_of(value)}", remedy)
    elif not 1 <= value <= PIXEL_LIMIT:
        yield CocoFault(f"{at}.{key}", ids, f"a size is from 1 to {PIXEL_LIMIT}, got {shown(value)}", remedy)


def _annotation_faults(found: dict[str, Any], at: str) -> Iterator[CocoFault]:
    ids = ", ".join(text for text in (_ids(found, "annotation"), _ids(found, "image", "image_id")) if text)
    form = next((form for key, form in _OTHER_ANNOTATIONS if key in found), None)
    if form is not None and found.get("bbox") is None:
        yield CocoFault(at, ids, f"it has no bbox; it looks like {form}", "Name the file of instances in place of it")
        return
    yield from _id_faults(found, "image_id", at, ids)
    yield from _id_faults(found, "category_id", at, ids)
    for key in ("iscrowd", "ignore"):
        value = found.get(key)
        if value is not None and value not in (0, 1):
            remedy = "Write 1 for a region to ignore, 0 for an object"
            yield CocoFault(f"{at}.{key}", ids, f"it is 0, 1, true or false, got {kind_of(value)}", remedy)
    yield from _box_faults(found, f"{at}.bbox", ids)


def _box_faults(found: dict[str, Any], at: str, ids: str) -> Iterator[CocoFault]:
    remedy = "Write [x, y, width, height] in pixels"
    box = found.get("bbox")
    if box is None:
        message = "null" if "bbox" in found else "missing"
        if found.get("segmentation"):
            message += ", though there is a segmentation: no box is guessed"
            remedy += "; pycocotools' COCO.annToRLE and mask.toBbox give it"
        yield CocoFault(at, ids, message, remedy)
    elif not isinstance(box, list):
        yield CocoFault(at, ids, f"it is a list of four numbers, got {kind_of(box)}", remedy)
    elif len(box) != 4:
        yield CocoFault(at, ids, f"it is a list of four numbers, got {len(box)}: {shown(box)}", remedy)
    else:
        for index, value in enumerate(box):
            if not _is_number(value) or abs(value) > PIXEL_LIMIT:
                message = f"a number in pixels, got {kind_of(value)}"
                yield CocoFault(f"{at}[{index}]", ids, f"{message}, in {shown(box)}", remedy)


def _category_faults(category: dict[str, Any], at: str) -> Iterator[CocoFault]:
    ids = _ids(category, "category")
    yield from _id_faults(category, "id", at, ids)
    name = category.get("name")
    if not isinstance(name, str):
        message = f"a name is a text, got {kind_of(name)}" if "name" in category else "missing"
        yield CocoFault(f"{at}.name", ids, message, "Write what the category's objects are called")


_ENTRY_RULES: dict[str, Callable[[dict[str, Any], str], Iterator[CocoFault]]] = {
    "images": _image_faults,
    "annotations": _annotation_faults,
    "categories": _category_faults,
}


def _id_faults(entry: dict[str, Any], key: str, at: str, ids: str) -> Iterator[CocoFault]:
    if key in entry:
        yield from _id_value_faults(entry[key], f"{at}.{key}", ids)
    else:
        yield CocoFault(f"{at}.{key}", ids, "missing", "Write the id, an integer or a text")


def _id_value_faults(value: Any, at: str, ids: str) -> Iterator[CocoFault]:
    whole = _is_number(value) and value == value // 1
    if not whole and not isinstance(value, str):
        yield CocoFault(at, ids, f"an id is an integer or a text, got {kind_of(value)}", "Write the id of the entry")


def _ids(entry: dict[str, Any], what: str, key: str = "id") -> str:
    value = entry.get(key)
    return f"{what} id {shown(value)}" if isinstance(value, int | float | str) and not isinstance(value, bool) else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _describe_value(payload: Any) -> str:
    if not isinstance(payload, list):
        return f"the file holds {kind_of(payload)}"
    first = payload[0] if payload and isinstance(payload[0], dict) else {}
    if "score" in first and "image_id" in first:
        return "the file is a list of detections with scores, COCO's results format"
    if "image_id" in first and "category_id" in first:
        return "the file is a list of annotations alone"
    if "file_name" in first:
        return "the file is a list of images, as Detectron2 takes it"
    return f"the file is a list of {len(payload)} entries"


def kind_of(value: Any) -> str:
    """What kind of JSON value it is, and the value itself where it is short."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "the text", bool: "the boolean", int: "", float: ""}
    return f"{names[type(value)]} {shown(value)}".strip()


def shown(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
