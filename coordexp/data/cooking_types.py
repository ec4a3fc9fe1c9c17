"""What cooking is asked for and what it counts. Contract ids: DATA-009."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from coordexp.data.pictures import UNDECIDED, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from coordexp.data.pictures import ExifPolicy
    from coordexp.data.regions import IgnoreRegion

OBJECT_DROPS = (
    "zero_area",
    "outside",
    "unmapped_category",
    "duplicate",
    "unknown_image",
    "record_dropped",
)
OBJECT_IGNORES = ("crowd", "ignore")
RECORD_DROPS = (
    "max_objects",
    "empty",
    *(reason for reason in get_args(Reason) if reason != UNDECIDED),
    "extreme_aspect",
)
EXAMPLES_KEPT = 20
ADJUSTMENTS = (
    "box_clipped",
    "edge_clipped",
    "poly_clipped",
    "poly_as_box",
    "desc_normalized",
    "no_area_in_bins",
    "image_merged",
    "image_resized",
    "image_reencoded",
    "image_copied",
    "alpha_flattened",
    "exif_applied",
    "exif_ignored",
    "first_frame",
)


@dataclass(frozen=True, slots=True)
class CookSource:
    """Where the input lies: the annotation file, and the folder its `file_name`s are relative to."""

    annotations: Path
    images: Path


@dataclass(frozen=True, slots=True)
class CookOptions:
    """How to cook.

    `max_pixels` caps width·height; `category_map` maps COCO names to descs, and what it lacks is dropped and
    counted; `max_objects` drops whole records that have more; `keep_empty` keeps records without objects; `exif` says
    what to do with an EXIF orientation that the declared size does not decide, which is refused without it;
    `background` says that a file without a single object is meant so."""

    max_pixels: int
    factor: int = 32
    max_objects: int | None = None
    category_map: Mapping[str, str] | None = None
    geometry: Literal["bbox_2d", "poly"] = "bbox_2d"
    keep_empty: bool = True
    exif: ExifPolicy | None = None
    background: bool = False

    def as_json(self) -> dict[str, Any]:
        """The options as the manifest records them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DropExample:
    """A dropped record: its image as the annotations name it, its id, and why it was dropped."""

    file: str
    image_id: int | str
    message: str

    def as_json(self, root: Path) -> dict[str, Any]:
        """As the manifest records it, with paths relative to the image folder: it is the same wherever that lies."""
        return asdict(self) | {"message": self.message.replace(f"{root}{os.sep}", "")}

    def __str__(self) -> str:
        named = "" if self.file in self.message else f", file_name {self.file!r}"
        return f"image id {self.image_id}{named}: {self.message}"


@dataclass(frozen=True, slots=True)
class CookedObjects:
    """What one image's annotations came to: objects in annotation order, regions to ignore, and counts of the rest."""

    objects: list[dict[str, Any]] = field(default_factory=list)
    regions: list[IgnoreRegion] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    adjusted: Counter[str] = field(default_factory=Counter)

    @property
    def found(self) -> int:
        """Annotations that go where the record goes: its objects and the regions that it ignores."""
        return len(self.objects) + self.ignored.total()


@dataclass(slots=True)
class DropCounts:
    """Counters of one cooking run: an input object ends as kept, ignored or under one drop reason, an input image as
    kept, merged into an earlier one of the same file, or under one drop reason. `examples` names the first records of
    each reason."""

    objects_input: int = 0
    objects_kept: int = 0
    objects_ignored: Counter[str] = field(default_factory=Counter)
    objects_dropped: Counter[str] = field(default_factory=Counter)
    records_input: int = 0
    records_kept: int = 0
    records_kept_empty: int = 0
    records_dropped: Counter[str] = field(default_factory=Counter)
    adjusted: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[DropExample]] = field(default_factory=dict)

    def keep_record(self, cooked: CookedObjects, adjustments: Iterable[str]) -> None:
        """Count a record that was written, what became of its annotations, and all that was done to its image."""
        self.records_kept += 1
        self.records_kept_empty += not cooked.objects
        self.objects_kept += len(cooked.objects)
        self.objects_ignored.update(cooked.ignored)
        self.adjusted.update(cooked.adjusted)
        self.adjusted.update(adjustments)

    def drop_record(self, reason: str, annotations: int, example: DropExample) -> None:
        """Count a record that was dropped and the annotations that go with it."""
        self.records_dropped[reason] += 1
        self.objects_dropped["record_dropped"] += annotations
        named = self.examples.setdefault(reason, [])
        if len(named) < EXAMPLES_KEPT:
            named.append(example)

    def as_json(self, root: Path) -> dict[str, Any]:
        """The counts as the manifest records them: every reason is present, zeros included; paths start from `root`."""
        return {
            "objects": {
                "input": self.objects_input,
                "kept": self.objects_kept,
                "ignored": {reason: self.objects_ignored[reason] for reason in OBJECT_IGNORES},
                "dropped": {reason: self.objects_dropped[reason] for reason in OBJECT_DROPS},
            },
            "records": {
                "input": self.records_input,
                "kept": self.records_kept,
                "kept_empty": self.records_kept_empty,
                "dropped": {reason: self.records_dropped[reason] for reason in RECORD_DROPS},
            },
            "adjusted": {what: self.adjusted[what] for what in ADJUSTMENTS},
            "dropped_examples": {
                reason: [example.as_json(root) for example in self.examples[reason]]
                for reason in RECORD_DROPS
                if reason in self.examples
            },
        }
