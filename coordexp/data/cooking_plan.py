"""First half of cooking, without opening an image: which records there will be, and why the others will not.

Contract ids: DATA-009, DATA-010.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordexp.data.cooking_images import ImageJob
from coordexp.data.cooking_objects import CookedObjects, Frame, cook_objects
from coordexp.data.cooking_types import CookOptions, CookSource, DropCounts
from coordexp.data.errors import DataError
from coordexp.data.paths import resolve_image
from coordexp.data.texts import desc_fault, normalize_desc
from coordexp.geometry.resize import cooked_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from coordexp.data.coco import CocoAnnotation, CocoFile, CocoImage


@dataclass(frozen=True, slots=True)
class Dish:
    """A record on its way: its objects are ready, its image is not."""

    job: ImageJob
    objects: list[dict[str, Any]]
    image_id: int


@dataclass(slots=True)
class Plan:
    """Goes through the annotations once and counts everything that is dropped before images are opened."""

    source: CookSource
    folder: Path
    options: CookOptions
    descs: dict[int, str]
    counts: DropCounts = field(default_factory=DropCounts)
    _sources: set[Path] = field(default_factory=set)
    _stems: dict[Path, str] = field(default_factory=dict)

    def dishes(self, coco: CocoFile) -> Iterator[Dish | None]:
        """One item for each image in file order: a dish, or None when the record is dropped (and counted)."""
        by_image: dict[int, list[CocoAnnotation]] = {image.id: [] for image in coco.images}
        self.counts.objects_input = len(coco.annotations)
        for annotation in coco.annotations:
            if annotation.image_id in by_image:
                by_image[annotation.image_id].append(annotation)
            else:
                self.counts.objects_dropped["unknown_image"] += 1
        for image in coco.images:
            self.counts.records_input += 1
            yield self._dish(image, by_image[image.id])

    def _dish(self, image: CocoImage, annotations: list[CocoAnnotation]) -> Dish | None:
        path = resolve_image(self.source.annotations, image.file_name, self.source.images)
        if path in self._sources:
            self.drop("duplicate_image", len(annotations))
            return None
        self._sources.add(path)
        annotated = (image.width, image.height)
        size = self._cooked_size(image)
        if size is None:
            self.drop("extreme_aspect", len(annotations))
            return None
        cooked = cook_objects(annotations, Frame(annotated, size), self.descs, self.options)
        self.counts.objects_dropped.update(cooked.dropped)
        reason = self._record_drop(cooked)
        if reason is not None:
            self.drop(reason, len(cooked.objects))
            return None
        self.counts.adjusted.update(cooked.adjusted)
        return Dish(
            ImageJob(path, annotated, size, self._stem(path, image.file_name), self.options.exif),
            cooked.objects,
            image.id,
        )

    def drop(self, reason: str, objects: int) -> None:
        """Count a dropped record and the objects that go with it."""
        self.counts.records_dropped[reason] += 1
        self.counts.objects_dropped["record_dropped"] += objects

    def _cooked_size(self, image: CocoImage) -> tuple[int, int] | None:
        if image.width < 1 or image.height < 1:
            where = f"{self.source.annotations}: image id {image.id}"
            raise DataError(
                f"{where}: its size is {image.width}x{image.height}; width and height are at least 1: correct it"
            )
        return cooked_size(image.width, image.height, self.options.max_pixels, self.options.factor)

    def _record_drop(self, cooked: CookedObjects) -> str | None:
        if self.options.max_objects is not None and len(cooked.objects) > self.options.max_objects:
            return "max_objects"
        return "empty" if not cooked.objects and not self.options.keep_empty else None

    def _stem(self, path: Path, file_name: str) -> Path:
        """Where the cooked image goes, without suffix: its place under the image folder, under `images/`."""
        inside = path.relative_to(self.source.images.resolve()).with_suffix("")
        parts = inside.parts[1:] if len(inside.parts) > 1 and inside.parts[0] == "images" else inside.parts
        stem = self.folder.joinpath("images", *parts)
        if stem in self._stems:
            raise DataError(
                f"{self.source.annotations}: {file_name!r} and {self._stems[stem]!r} would both be cooked to "
                f"{stem.name}.*; rename one of them"
            )
        self._stems[stem] = file_name
        return stem


def check_options(options: CookOptions) -> CookOptions:
    """Return options that can be met; raise `DataError` otherwise."""
    if options.max_objects is not None and options.max_objects < 1:
        raise DataError(f"max_objects is {options.max_objects}; it is at least 1, or left out")
    try:
        cooked_size(1, 1, options.max_pixels, options.factor)
    except ValueError as error:
        raise DataError(str(error)) from error
    return options


def category_descs(coco: CocoFile, options: CookOptions, source: Path) -> dict[int, str]:
    """Description of each category id; ids that the category map leaves out are absent. Raises `DataError`."""
    names = {category.id: category.name for category in coco.categories}
    mapping = options.category_map
    if mapping is not None:
        unknown = sorted(set(mapping) - set(names.values()))
        if unknown:
            raise DataError(
                f"category map: {source} has no category {unknown[0]!r}; it has {sorted(set(names.values()))}"
            )
        names = {number: mapping[name] for number, name in names.items() if name in mapping}
    descs = {number: normalize_desc(name) for number, name in names.items()}
    for number, desc in descs.items():
        fault = desc_fault(desc)
        if fault is not None:
            raise DataError(f"{source}: category {names[number]!r} cannot be a desc: {fault.message}; map it")
    return descs
