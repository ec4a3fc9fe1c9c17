"""What cooking is asked for and what it counts. Contract ids: DATA-009."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

OBJECT_DROPS = (
    "crowd",
    "zero_area",
    "outside",
    "unmapped_category",
    "duplicate",
    "unknown_image",
    "record_dropped",
)
RECORD_DROPS = (
    "max_objects",
    "empty",
    "missing_image",
    "unreadable_image",
    "not_an_image",
    "truncated_image",
    "corrupt_image",
    "unsupported_depth",
    "unsupported_colour",
    "decompression_bomb",
    "size_mismatch",
    "extreme_aspect",
    "duplicate_image",
)
ADJUSTMENTS = (
    "box_clipped",
    "edge_clipped",
    "poly_clipped",
    "poly_as_box",
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
    what to do with an EXIF orientation that the declared size does not decide, which is refused without it."""

    max_pixels: int
    factor: int = 32
    max_objects: int | None = None
    category_map: Mapping[str, str] | None = None
    geometry: Literal["bbox_2d", "poly"] = "bbox_2d"
    keep_empty: bool = True
    exif: Literal["apply", "ignore"] | None = None

    def as_json(self) -> dict[str, Any]:
        """The options as the manifest records them."""
        return asdict(self)


@dataclass(slots=True)
class DropCounts:
    """Counters of one cooking run; every input object and record ends in exactly one of kept or one drop reason."""

    objects_input: int = 0
    objects_kept: int = 0
    objects_dropped: Counter[str] = field(default_factory=Counter)
    records_input: int = 0
    records_kept: int = 0
    records_kept_empty: int = 0
    records_dropped: Counter[str] = field(default_factory=Counter)
    adjusted: Counter[str] = field(default_factory=Counter)

    def keep_record(self, objects: int, adjustments: Iterable[str]) -> None:
        """Count a record that was written with `objects` objects, and all that was done to its image."""
        self.records_kept += 1
        self.records_kept_empty += objects == 0
        self.objects_kept += objects
        self.adjusted.update(adjustments)

    def as_json(self) -> dict[str, Any]:
        """The counts as the manifest records them: every reason is present, zeros included."""
        return {
            "objects": {
                "input": self.objects_input,
                "kept": self.objects_kept,
                "dropped": {reason: self.objects_dropped[reason] for reason in OBJECT_DROPS},
            },
            "records": {
                "input": self.records_input,
                "kept": self.records_kept,
                "kept_empty": self.records_kept_empty,
                "dropped": {reason: self.records_dropped[reason] for reason in RECORD_DROPS},
            },
            "adjusted": {what: self.adjusted[what] for what in ADJUSTMENTS},
        }
