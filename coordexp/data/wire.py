"""The quick way through a JSONL line: typed decoding and the cross-field checks of a record that is in order.

Enters: one line of bytes. Leaves: the decoded record with its geometry as bins or pixels, or None when anything at all
is out of order; `coordexp.data.rules` then says what. Contract ids: DATA-003, DATA-004.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from coordexp.coords.codec import N_BINS, render_coord_token
from coordexp.data.regions import scope_findings
from coordexp.data.rules import looks_normalized
from coordexp.data.texts import desc_fault

# The 1000 coord-token texts. The decoder looks a string up in the enum's value map; with the bins themselves as its
# values, plain ints come out and no text is ever built.
BinToken = Enum("BinToken", {f"COORD_{k}": render_coord_token(k) for k in range(N_BINS)})  # type: ignore[misc]
BinToken._value2member_map_ = {render_coord_token(k): k for k in range(N_BINS)}  # type: ignore[misc, assignment]


class BinObject(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An object whose coordinates are coord tokens; after decoding they are plain ints."""

    desc: str
    bbox_2d: tuple[BinToken, BinToken, BinToken, BinToken] | UnsetType = UNSET
    poly: tuple[BinToken, ...] | UnsetType = UNSET


class PixelObject(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An object whose coordinates are pixel numbers."""

    desc: str
    bbox_2d: tuple[int | float, int | float, int | float, int | float] | UnsetType = UNSET
    poly: tuple[int | float, ...] | UnsetType = UNSET


class BinRecord(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A line in coord tokens (or without objects)."""

    images: tuple[str]
    width: int
    height: int
    objects: tuple[BinObject, ...]
    summary: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class PixelRecord(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A line in pixels."""

    images: tuple[str]
    width: int
    height: int
    objects: tuple[PixelObject, ...]
    summary: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


WireRecord = BinRecord | PixelRecord
_decode_bins = msgspec.json.Decoder(BinRecord).decode
_decode_pixels = msgspec.json.Decoder(PixelRecord).decode
_seen_descs: set[str] = set()
_SEEN_LIMIT = 100_000


def decode_line(line: bytes, *, keys_are_unique: bool = False) -> WireRecord | None:
    """Decode and check one line; None when any rule may be broken.

    Whether a key is repeated is judged cautiously, from a count of colons, unless the caller knows that none is.
    """
    try:
        bins = _decode_bins(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_pixel_line(line, keys_are_unique)
    sound = _frame_is_sound(bins) and (keys_are_unique or _keys_are_unique(line, bins))
    return bins if sound and _bin_objects_are_sound(bins.objects) else None


def _decode_pixel_line(line: bytes, keys_are_unique: bool) -> PixelRecord | None:
    try:
        record = _decode_pixels(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not _frame_is_sound(record) or not (keys_are_unique or _keys_are_unique(line, record)):
        return None
    extents = (record.width, record.height)
    return record if all(_pixel_object_is_sound(found, extents) for found in record.objects) else None


def _frame_is_sound(record: WireRecord) -> bool:
    image = record.images[0]
    if record.metadata is not UNSET and next(scope_findings(record.metadata), None) is not None:
        return False
    return record.width >= 1 and record.height >= 1 and image != "" and "\0" not in image


def _keys_are_unique(line: bytes, record: WireRecord) -> bool:
    keys = 4 + 2 * len(record.objects)
    if record.summary is not UNSET:
        keys += 1
    if record.metadata is not UNSET:
        keys += 1 + _count_keys(record.metadata)
    # Each key on the line has a colon of its own, so an equal count rules repeated keys out. A colon inside a text
    # only sends the line through the slower rules.
    return line.count(b":") == keys


def _count_keys(value: object) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_count_keys, value.values()))
    return sum(map(_count_keys, value)) if isinstance(value, list) else 0


def _desc_is_sound(desc: str) -> bool:
    if desc in _seen_descs:
        return True
    if desc_fault(desc) is not None:
        return False
    if len(_seen_descs) < _SEEN_LIMIT:
        _seen_descs.add(desc)
    return True


def _bin_objects_are_sound(objects: tuple[Any, ...]) -> bool:
    # One loop without calls: this is what every line of a cooked file goes through.
    for found in objects:
        if found.desc not in _seen_descs and not _desc_is_sound(found.desc):
            return False
        box, poly = found.bbox_2d, found.poly
        if box is UNSET:
            if poly is UNSET or len(poly) < 6 or len(poly) % 2:
                return False
            continue
        x1, y1, x2, y2 = box
        if x1 > x2 or y1 > y2 or poly is not UNSET:
            return False
    return True


def _pixel_object_is_sound(found: PixelObject, extents: tuple[int, int]) -> bool:
    if not _desc_is_sound(found.desc):
        return False
    if (found.bbox_2d is UNSET) == (found.poly is UNSET):
        return False
    if found.bbox_2d is not UNSET:
        box = found.bbox_2d
        if box[0] > box[2] or box[1] > box[3]:
            return False
        numbers: tuple[int | float, ...] = box
    else:
        assert found.poly is not UNSET
        numbers = found.poly
        if len(numbers) < 6 or len(numbers) % 2:
            return False
    if looks_normalized(numbers):
        return False
    return all(0 <= number <= extents[axis % 2] for axis, number in enumerate(numbers))
