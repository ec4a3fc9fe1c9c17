"""Every rule of the record contract with its message: what a line that is not in order is told.

Contract ids: DATA-003, DATA-004.
Enters: one line of bytes. Leaves: all findings, empty when the record is in order. `coordexp.data.wire` is the quick
way to the same verdict; contracts/records/record.schema.json says the same declaratively and names the rules beyond a
schema's reach.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from coordexp.coords.codec import MAX_BIN, parse_coord_token
from coordexp.data.errors import Finding
from coordexp.data.file_forms import NOT_UTF8
from coordexp.data.regions import scope_findings
from coordexp.data.texts import desc_fault
from coordexp.spec import RepeatedKeyError, unique_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOP_KEYS = ("images", "width", "height", "objects", "summary", "metadata")
OBJECT_KEYS = ("desc", "bbox_2d", "poly")
REMOVED_OBJECT_KEYS = {
    "bbox": "Write the corners x1, y1, x2, y2 under bbox_2d.",
    "polygon": "Write the flat list x, y, x, y, … under poly.",
    "line": "Lines are not supported: cook the object as bbox_2d or poly.",
}


def find_problems(line: bytes) -> list[Finding]:
    """All findings of one line, in reading order."""
    if not line.strip():
        return [Finding("empty_line", "", "the line is empty", "Remove it: each line holds one record.")]
    try:
        payload = json.loads(line.decode("utf-8"), object_pairs_hook=unique_pairs, parse_constant=_refuse_constant)
        json.dumps(payload, ensure_ascii=False).encode("utf-8")
    except RepeatedKeyError as error:
        message = f"the key {error.keys[0]!r} is written twice in one object"
        return [Finding("duplicate_key", "", message, "Keep one of them.")]
    except (ValueError, RecursionError) as error:
        return [_json_finding(error)]
    if not isinstance(payload, dict):
        message = f"a record is a JSON object, got {_kind(payload)}"
        return [Finding("record_type", "", message, 'Write {"images": …, "width": …, "height": …, "objects": …}.')]
    return list(_record_findings(payload))


def _json_finding(error: ValueError | RecursionError) -> Finding:
    if isinstance(error, UnicodeDecodeError):
        message = f"byte {error.start + 1} of the line is 0x{error.object[error.start]:02x}, {NOT_UTF8}"
        return Finding("invalid_json", "", message, "Save the file as UTF-8.")
    if isinstance(error, UnicodeEncodeError):
        half = f"\\u{ord(error.object[error.start]):04x}"
        message = f"{half} is half of a surrogate pair, which is no character"
        return Finding("invalid_json", "", message, "Write the character itself, or remove it.")
    reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    return Finding("invalid_json", "", f"not one JSON value: {reason}", "Write one strict JSON object a line.")


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _record_findings(record: dict[str, Any]) -> Iterator[Finding]:
    for key in record:
        if key not in TOP_KEYS:
            remedy = "Remove it, or put it under metadata."
            yield Finding("unknown_key", key, f"unknown key {key!r}; allowed: {', '.join(TOP_KEYS)}", remedy)
    yield from _images_findings(record)
    sizes = {}
    for key in ("width", "height"):
        findings = list(_size_findings(record, key))
        yield from findings
        sizes[key] = None if findings else record[key]
    if "summary" in record and not isinstance(record["summary"], str):
        yield Finding(
            "summary_type",
            "summary",
            f"summary is a text, got {_kind(record['summary'])}",
            "Write a text or leave it out.",
        )
    if "metadata" in record and not isinstance(record["metadata"], dict):
        message = f"metadata is a JSON object, got {_kind(record['metadata'])}"
        yield Finding("metadata_type", "metadata", message, "Write an object or leave it out.")
    elif "metadata" in record:
        yield from scope_findings(record["metadata"])
    yield from _objects_findings(record, (sizes["width"], sizes["height"]))


def _images_findings(record: dict[str, Any]) -> Iterator[Finding]:
    if "images" not in record:
        yield Finding("images_missing", "images", "images is missing", "Write a list with the path of the image.")
        return
    images = record["images"]
    if not isinstance(images, list):
        yield Finding("images_type", "images", f"images is a list of paths, got {_kind(images)}", 'Write ["path"].')
        return
    if len(images) != 1:
        message = f"images holds {len(images)} paths; width, height and all coordinates belong to exactly one"
        yield Finding("images_count", "images", message, "Write one record for each image.")
    for index, path in enumerate(images):
        if not isinstance(path, str) or not path or "\0" in path:
            message = f"an image is a non-empty path, got {path!r}"
            yield Finding(
                "image_path",
                f"images[{index}]",
                message,
                "Write a path relative to the JSONL's folder or ROOT_IMAGE_DIR.",
            )


def _size_findings(record: dict[str, Any], key: str) -> Iterator[Finding]:
    remedy = "Write the image's size in pixels; `coordexp.entrypoints.cook` does."
    if key not in record:
        yield Finding("size_missing", key, f"{key} is missing", remedy)
        return
    size = record[key]
    if isinstance(size, float) and size.is_integer():
        yield Finding("size_notation", key, f"{key} is written as {size!r}, with a point", remedy)
    elif isinstance(size, bool) or not isinstance(size, int):
        yield Finding("size_type", key, f"{key} is an integer in pixels, got {_kind(size)}", remedy)
    elif size < 1:
        yield Finding("size_range", key, f"{key} is at least 1, got {size}", remedy)


def _objects_findings(record: dict[str, Any], extents: tuple[int | None, int | None]) -> Iterator[Finding]:
    if "objects" not in record:
        yield Finding("objects_missing", "objects", "objects is missing", "Write [] for an image without objects.")
        return
    objects = record["objects"]
    if not isinstance(objects, list):
        yield Finding(
            "objects_type",
            "objects",
            f"objects is a list, got {_kind(objects)}",
            "Write [] for an image without objects.",
        )
        return
    notations: set[str] = set()
    for index, found in enumerate(objects):
        at = f"objects[{index}]"
        if not isinstance(found, dict):
            yield Finding(
                "object_type",
                at,
                f"an object is a JSON object, got {_kind(found)}",
                'Write {"desc": …, "bbox_2d": […]}.',
            )
            continue
        yield from _object_findings(found, at, extents)
        notations |= _notations(found)
        if len(notations) == 2:
            message = "the record mixes coord tokens and pixel numbers"
            yield Finding("mixed_coordinates", at, message, "Write all coordinates of a record one way.")
            notations = set()


def _object_findings(found: dict[str, Any], at: str, extents: tuple[int | None, int | None]) -> Iterator[Finding]:
    for key in found:
        if key in REMOVED_OBJECT_KEYS:
            yield Finding(
                "removed_key", f"{at}.{key}", f"{key!r} is not a geometry of this contract", REMOVED_OBJECT_KEYS[key]
            )
        elif key not in OBJECT_KEYS:
            message = f"unknown key {key!r}; allowed: {', '.join(OBJECT_KEYS)}"
            yield Finding("unknown_key", f"{at}.{key}", message, "Remove it, or put it under the record's metadata.")
    yield from _desc_findings(found, at)
    kinds = [kind for kind in ("bbox_2d", "poly") if kind in found]
    if len(kinds) != 1:
        rule = "geometry_both" if kinds else "geometry_missing"
        message = "both bbox_2d and poly are given" if kinds else "neither bbox_2d nor poly is given"
        yield Finding(rule, at, message, "Write exactly one of bbox_2d and poly.")
    for kind in kinds:
        yield from _geometry_findings(kind, found[kind], f"{at}.{kind}", extents)


def _desc_findings(found: dict[str, Any], at: str) -> Iterator[Finding]:
    remedy = "Write what the object is."
    if "desc" not in found:
        yield Finding("desc_missing", f"{at}.desc", "desc is missing", remedy)
    elif not isinstance(found["desc"], str):
        yield Finding("desc_type", f"{at}.desc", f"desc is a text, got {_kind(found['desc'])}", remedy)
    else:
        fault = desc_fault(found["desc"])
        if fault is not None:
            yield Finding(fault.rule, f"{at}.desc", fault.message, fault.remedy)


def _geometry_findings(kind: str, values: Any, at: str, extents: tuple[int | None, int | None]) -> Iterator[Finding]:
    if not isinstance(values, list):
        yield Finding(
            "geometry_type", at, f"{kind} is a flat list of coordinates, got {_kind(values)}", "Write a list."
        )
        return
    if kind == "bbox_2d" and len(values) != 4:
        yield Finding("bbox_arity", at, f"bbox_2d has {len(values)} values; it has exactly 4", "Write x1, y1, x2, y2.")
    if kind == "poly" and len(values) < 6:
        message = f"poly has {len(values)} values; it has at least 6"
        yield Finding("poly_arity", at, message, "Write x, y of three points or more.")
    elif kind == "poly" and len(values) % 2:
        message = f"poly has {len(values)} values, an odd number"
        yield Finding("poly_odd", at, message, "Write both x and y of each point.")
    findings = [
        finding
        for index, value in enumerate(values)
        for finding in _value_findings(value, f"{at}[{index}]", extents[index % 2])
    ]
    yield from findings
    if findings or not values:
        return
    if all(not isinstance(value, str) for value in values) and looks_normalized(values):
        message = (
            f"{values} looks like values in [0, 1]; coordinates are pixels or coord tokens and are normalized once"
        )
        yield Finding(
            "already_normalized", at, message, "Write pixels, or cook the file once more from its annotations."
        )
    if kind == "bbox_2d" and len(values) == 4 and len({type(value) is str for value in values}) == 1:
        yield from _order_findings(
            [parse_coord_token(value) if isinstance(value, str) else value for value in values], at
        )


def _order_findings(corners: Sequence[float], at: str) -> Iterator[Finding]:
    for axis, low, high in (("x", corners[0], corners[2]), ("y", corners[1], corners[3])):
        if low > high:
            message = f"{axis}1 = {low} is greater than {axis}2 = {high}"
            yield Finding("bbox_order", at, message, "Corners are x1 ≤ x2 and y1 ≤ y2; nothing is swapped for you.")


def _value_findings(value: Any, at: str, extent: int | None) -> Iterator[Finding]:
    tokens = f"<|coord_0|> .. <|coord_{MAX_BIN}|>"
    if isinstance(value, str):
        try:
            parse_coord_token(value)
        except ValueError as error:
            yield Finding("coord_token", at, str(error), f"Write {tokens} or a pixel number.")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        message = f"a coordinate is a coord token or a number, got {_kind(value)}"
        yield Finding("coord_type", at, message, f"Write {tokens} or a pixel number.")
    elif not math.isfinite(value):
        yield Finding("pixel_outside", at, f"pixel {value!r} is not finite", "Write a finite number.")
    elif value < 0:
        yield Finding("pixel_negative", at, f"pixel {value!r} is negative", "Clip boxes to the image when cooking.")
    elif extent is not None and value > extent:
        message = f"pixel {value!r} is outside the image, which has {extent} pixels on this axis"
        yield Finding("pixel_outside", at, message, "Clip boxes to the image when cooking, and check width and height.")


def looks_normalized(values: Sequence[float]) -> bool:
    """True when all numbers lie in [0, 1] and one is a fraction: a box that was divided by the image's size before."""
    return max(values) <= 1 and any(value != int(value) for value in values)


def _notations(found: dict[str, Any]) -> set[str]:
    geometries = [found[kind] for kind in ("bbox_2d", "poly") if isinstance(found.get(kind), list)]
    values = [value for geometry in geometries for value in geometry]
    texts = {"token" for value in values if isinstance(value, str)}
    return texts | {"pixel" for value in values if isinstance(value, int | float) and not isinstance(value, bool)}


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else f"{names[type(value)]} ({json.dumps(value, ensure_ascii=False)[:40]})"
