"""What of an image is not scored: regions to ignore, and the categories that nobody looked for. Contract ids: DATA-023.

In: the `metadata` of a record, as cooking writes it. Out: `ImageScope`, or findings of the record contract.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordexp.data.errors import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from coordexp.data.types import Record

IGNORE_KEY, ABSENT_KEY = "ignore", "verified_absent"
_REGION_KEYS = {"desc", "bbox_2d"}
_REGION_FORM = 'Write {"desc": a text or null, "bbox_2d": [x1, y1, x2, y2]} in pixels of the image.'


@dataclass(frozen=True, slots=True)
class IgnoreRegion:
    """A box (x1, y1, x2, y2, pixels of the record's image) where answers of `desc` count neither way; None is any desc.

    It stands for crowds, for regions that annotators left aside, and, over the whole image, for a category that was not
    annotated exhaustively.
    """

    desc: str | None
    box: tuple[float, float, float, float]

    def as_json(self) -> dict[str, Any]:
        """As an entry of `metadata.ignore`."""
        return {"desc": self.desc, "bbox_2d": list(self.box)}


@dataclass(frozen=True, slots=True)
class ImageScope:
    """What is not scored in an image. `verified_absent` is None where every category was looked for; otherwise only
    those are scored that the image has, ignores, or names there.
    """

    ignore: tuple[IgnoreRegion, ...] = ()
    verified_absent: frozenset[str] | None = None


def read_scope(record: Record) -> ImageScope:
    """The scope of a record that passed its contract."""
    regions = [IgnoreRegion(found["desc"], _corners(found["bbox_2d"])) for found in record.metadata.get(IGNORE_KEY, ())]
    absent = record.metadata.get(ABSENT_KEY)
    return ImageScope(tuple(regions), None if absent is None else frozenset(absent))


def scope_findings(metadata: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with the entries of `metadata` that evaluation reads; all others belong to the author."""
    regions = metadata.get(IGNORE_KEY, [])
    if not isinstance(regions, list):
        yield Finding("ignore_form", f"metadata.{IGNORE_KEY}", "it is no list of regions", _REGION_FORM)
        regions = []
    for index, region in enumerate(regions):
        at, message = f"metadata.{IGNORE_KEY}[{index}]", _region_fault(region)
        if message is not None:
            yield Finding("ignore_form", at, message, _REGION_FORM)
            continue
        x1, y1, x2, y2 = region["bbox_2d"]
        if x1 > x2 or y1 > y2:
            yield Finding("ignore_order", at, "its corners are not x1 ≤ x2 and y1 ≤ y2", _REGION_FORM)
    absent = metadata.get(ABSENT_KEY, [])
    if not isinstance(absent, list) or not all(isinstance(desc, str) for desc in absent):
        yield Finding("absent_form", f"metadata.{ABSENT_KEY}", "it is no list of descs", 'Write ["desc", …].')


def _region_fault(region: Any) -> str | None:
    if not isinstance(region, dict) or set(region) != _REGION_KEYS:
        return "a region has desc and bbox_2d, and nothing else"
    if region["desc"] is not None and not isinstance(region["desc"], str):
        return "its desc is neither a text nor null"
    box = region["bbox_2d"]
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        return "its bbox_2d is no list of four finite numbers"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _corners(box: list[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return x1, y1, x2, y2
