"""First half of cooking, without opening an image: which records there will be, and why the others will not.

Contract ids: DATA-009, DATA-010, DATA-044, DATA-045.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordexp.data.cooking_folders import advise_on_missing, spellings
from coordexp.data.cooking_images import ImageJob
from coordexp.data.cooking_objects import Frame, cook_objects
from coordexp.data.cooking_types import CookedObjects, CookOptions, CookSource, DropCounts, DropExample
from coordexp.data.errors import DataError
from coordexp.data.paths import resolve_image
from coordexp.data.regions import ABSENT_KEY, IGNORE_KEY, IgnoreRegion
from coordexp.geometry.resize import cooked_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from coordexp.data.coco import CocoAnnotation, CocoFile, CocoImage, Identifier
    from coordexp.data.cooking_names import Names

OUTSIDE_REMEDY = "copy the file there, correct file_name, or let --images name a folder that holds it"


@dataclass(frozen=True, slots=True)
class Dish:
    """A record on its way: its objects are ready, its image is not. `file` is the image as the annotations name it."""

    job: ImageJob
    cooked: CookedObjects
    metadata: dict[str, Any]
    file: str

    def example(self, message: str) -> DropExample:
        """This record as one of those that were dropped."""
        return DropExample(self.file, self.metadata["image_id"], message)


@dataclass(slots=True)
class _Plate:
    """One image file: the entries of `images` that name it, and all their annotations."""

    path: Path
    images: list[CocoImage]
    annotations: list[CocoAnnotation]


@dataclass(slots=True)
class Plan:
    """Goes through the annotations once and counts everything that is dropped before images are opened."""

    source: CookSource
    folder: Path
    options: CookOptions
    names: Names
    counts: DropCounts = field(default_factory=DropCounts)
    _stems: dict[Path, str] = field(default_factory=dict)
    _root: Path = field(init=False)
    _federated: bool = False

    def __post_init__(self) -> None:
        self._root = self.source.images.resolve()

    def dishes(self, coco: CocoFile) -> Iterator[Dish | None]:
        """One item for each image in file order: a dish, or None when it is dropped or merged (and counted)."""
        self._federated = coco.federated
        for plate in self._plates(coco):
            self.counts.adjusted["image_merged"] += len(plate.images) - 1
            yield from (None for _ in plate.images[1:])
            yield self._dish(plate)

    def _plates(self, coco: CocoFile) -> list[_Plate]:
        """Image files in file order. Two entries of one file are one plate; of different sizes they are refused."""
        plates: dict[Path, _Plate] = {}
        by_image: dict[Any, _Plate] = {}
        paths: dict[str, Path] = {}
        self.counts.objects_input = len(coco.annotations)
        self.counts.records_input = len(coco.images)
        for image in coco.images:
            if image.name not in paths:
                paths[image.name] = self._locate(image)
            path = paths[image.name]
            plate = plates.setdefault(path, _Plate(path, [], []))
            self._check_size(image, plate)
            plate.images.append(image)
            by_image[image.id] = plate
        for annotation in coco.annotations:
            if annotation.image_id in by_image:
                by_image[annotation.image_id].annotations.append(annotation)
            else:
                self.counts.objects_dropped["unknown_image"] += 1
        return list(plates.values())

    def _locate(self, image: CocoImage) -> Path:
        """Where the file lies: as named, or, where no such file is, in the first of the other spellings that is there.

        Where none is, slashes stand for backslashes.
        """
        where = f"{self.source.annotations}: image id {image.id}"
        ways = spellings(image.name)
        name = ways[0]
        if len(ways) > 1:
            there = (way for way in ways if os.path.isfile(self.source.images / way))
            name = next(there, ways[1] if "\\" in image.name else image.name)
        try:
            found = resolve_image(where, name, self.source.images, remedy=OUTSIDE_REMEDY)
        except DataError as error:
            advice = advise_on_missing(self.source.images, [image.name], self.source.annotations)
            raise DataError(f"{error}" + (f". {advice}" if advice else "")) from error
        if found == self._root:
            raise DataError(f"{where}: file_name {image.name!r} is the image folder itself. Write the image's path")
        return found

    def _check_size(self, image: CocoImage, plate: _Plate) -> None:
        if not plate.images:
            return
        first = plate.images[0]
        if (first.width, first.height) != (image.width, image.height):
            raise DataError(
                f"{self.source.annotations}: image ids {first.id} and {image.id} are one file, {image.name!r}, of "
                f"{first.width}x{first.height} and of {image.width}x{image.height}. Correct the size that is wrong, or "
                "name another file"
            )

    def _dish(self, plate: _Plate) -> Dish | None:
        image = plate.images[0]
        annotated = (int(image.width), int(image.height))
        size = cooked_size(*annotated, self.options.max_pixels, self.options.factor)
        if size is None:
            shown = f"{annotated[0]}x{annotated[1]} has no size at its aspect that fits"
            message = f"{shown} factor {self.options.factor} and --max-pixels {self.options.max_pixels}"
            self.counts.drop_record("extreme_aspect", len(plate.annotations), _example(image, message))
            return None
        frame = Frame(annotated, size)
        cooked = cook_objects(plate.annotations, frame, self.names, self.options)
        self.counts.objects_dropped.update(cooked.dropped)
        drop = self._record_drop(cooked)
        if drop is not None:
            self.counts.drop_record(drop[0], cooked.found, _example(image, drop[1]))
            return None
        job = ImageJob(plate.path, annotated, size, self._stem(plate.path, image.name), self.options.exif)
        return Dish(job, cooked, self._metadata(plate, frame, cooked), image.name)

    def _metadata(self, plate: _Plate, frame: Frame, cooked: CookedObjects) -> dict[str, Any]:
        """The ids of the image, and what of it is not scored."""
        ids = [_whole(image.id) for image in plate.images]
        metadata: dict[str, Any] = {"image_id": ids[0]}
        if len(ids) > 1:
            metadata["image_ids"] = ids
        whole = (0.0, 0.0, float(frame.cooked[0]), float(frame.cooked[1]))
        partly = self.names.partly_annotated(plate.images)
        regions = [*cooked.regions, *(IgnoreRegion(desc, whole) for desc in partly)]
        if regions:
            metadata[IGNORE_KEY] = [region.as_json() for region in regions]
        if self._federated:
            metadata[ABSENT_KEY] = self.names.verified_absent(plate.images)
        return metadata

    def _record_drop(self, cooked: CookedObjects) -> tuple[str, str] | None:
        objects, limit = len(cooked.objects), self.options.max_objects
        if limit is not None and objects > limit:
            return "max_objects", f"{objects} objects, and --max-objects is {limit}"
        if not objects and not self.options.keep_empty:
            return "empty", "no object is left, and --drop-empty is given"
        return None

    def _stem(self, path: Path, file_name: str) -> Path:
        """Where the cooked image goes, without suffix: its place under the image folder, under `images/`."""
        inside = path.relative_to(self._root).with_suffix("")
        parts = inside.parts[1:] if len(inside.parts) > 1 and inside.parts[0] == "images" else inside.parts
        stem = self.folder.joinpath("images", *parts)
        if stem in self._stems:
            raise DataError(
                f"{self.source.annotations}: {file_name!r} and {self._stems[stem]!r} would both be cooked to "
                f"{stem.name}.*; rename one of them"
            )
        self._stems[stem] = file_name
        return stem


def _example(image: CocoImage, message: str) -> DropExample:
    return DropExample(image.name, _whole(image.id), message)


def _whole(number: Identifier) -> int | str:
    return int(number) if isinstance(number, float) else number


def check_options(options: CookOptions) -> CookOptions:
    """Return options that can be met; raise `DataError` otherwise."""
    if options.max_objects is not None and options.max_objects < 1:
        raise DataError(f"max_objects is {options.max_objects}; it is at least 1, or left out")
    try:
        cooked_size(1, 1, options.max_pixels, options.factor)
    except ValueError as error:
        raise DataError(str(error)) from error
    return options
