"""Truth from an annotation file, in its own pixels. EVAL-045, EVAL-046, EVAL-088.

Enter: the file, and the records that were cooked from it, with the manifest of cooking where one lies beside them; or
the file alone, all of whose images count then. Leaves: what each image's answer is compared with, and how the file
names images and categories. Bad input is one `EvaluationError`.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from coordexp.data.coco import CocoAnnotation, CocoFile, CocoImage, Identifier, load_coco
from coordexp.data.cooking import MANIFEST_NAME
from coordexp.data.cooking_names import Names, category_names
from coordexp.data.regions import IgnoreRegion
from coordexp.evaluation.detections import build_truth
from coordexp.evaluation.names import CategoryNames
from coordexp.evaluation.report import EvaluationError
from coordexp.evaluation.types import Detection, FileImage, FileRow, ImageTruth
from coordexp.spec import ContractFileError, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from coordexp.data.types import Record
    from coordexp.evaluation.types import Box

ID_KEY, IDS_KEY = "image_id", "image_ids"
"""Entries of a record's metadata that name its image in the annotation file, or the images that were merged into it."""


@dataclass(frozen=True, eq=False)
class AnnotatedSet:
    """An annotation file with the truths of the records, in their order, or of its own images.

    `categories` gives the category id of a description, the first where several categories share it (`shared` of them
    do). `left_out` are names of categories that the category map has none for; they are not evaluated. `images` are the
    ids of all its images, `descs` the description of each category id that is evaluated, and `unused` the other ids.
    `files` are the names of the images of `truths`, where these are the file's own.
    """

    path: Path
    sha256: str
    truths: tuple[ImageTruth, ...]
    categories: Mapping[str, Identifier]
    shared: int
    left_out: tuple[str, ...]
    images_without_record: int
    images: frozenset[Identifier] = frozenset()
    descs: Mapping[Identifier, str] = field(default_factory=dict)
    unused: frozenset[Identifier] = frozenset()
    files: tuple[str, ...] = ()

    @property
    def names(self) -> CategoryNames:
        """How descriptions of answers find its categories."""
        return CategoryNames(frozenset(self.categories), frozenset(self.left_out))

    def with_lengths(self, plain: Sequence[ImageTruth]) -> tuple[ImageTruth, ...]:
        """The truths with the answer lengths of those of the records themselves."""
        pairs = zip(self.truths, plain, strict=True)
        return tuple(replace(own, answer_tokens=other.answer_tokens) for own, other in pairs)


def read_annotations(path: Path, jsonl: Path, records: Sequence[Record]) -> AnnotatedSet:
    """The truth of `records`, which are those of `jsonl` or some of them, from the annotation file `path`.

    Raises `DataError` for a file that cannot be read, `EvaluationError` where the records do not belong to it.
    """
    coco, content = load_coco(path)
    digest = hashlib.sha256(content).hexdigest()
    names = category_names(coco, _category_map(path, jsonl, digest), path)
    descs = names.descs
    _check_descs(records, descs, path)
    images = _Images(coco, names)
    ids = _image_ids(records, images, path)
    truths = tuple(images.truth(build_truth(record), own) for record, own in zip(records, ids, strict=True))
    rest = len(coco.images) - sum(len(own) for own in ids)
    return _annotated_set(_Source(path, digest, coco, descs), truths, rest)


def read_all_annotations(path: Path, limit: int | None = None) -> AnnotatedSet:
    """The truth of the images of an annotation file, or of its first ones, in its order; each image was seen as it is.

    Raises `DataError` for a file that cannot be read, `EvaluationError` for one without images.
    """
    coco, content = load_coco(path)
    if not coco.images:
        raise EvaluationError(f"--annotations {path}: the file has no images, so there is nothing to evaluate")
    names = category_names(coco, None, path)
    images = _Images(coco, names)
    truths = tuple(images.truth(_plain(image), (image.id,)) for image in coco.images[:limit])
    source = _Source(path, hashlib.sha256(content).hexdigest(), coco, names.descs)
    whole = _annotated_set(source, truths, len(coco.images) - len(truths))
    return replace(whole, files=tuple(image.name for image in coco.images[:limit]))


def _plain(image: CocoImage) -> ImageTruth:
    """The image with nothing on it, called by its file and its id, wherever the annotation file lies."""
    return ImageTruth(f"{image.name} (image id {image.id})", int(image.width), int(image.height), ())


@dataclass(frozen=True, eq=False)
class _Source:
    """An annotation file as it was read, and the descriptions of its categories."""

    path: Path
    sha256: str
    coco: CocoFile
    descs: Mapping[Identifier, str]


def _annotated_set(source: _Source, truths: tuple[ImageTruth, ...], rest: int) -> AnnotatedSet:
    categories: dict[str, Identifier] = {}
    for number, desc in source.descs.items():
        categories.setdefault(desc, number)
    return AnnotatedSet(
        path=source.path,
        sha256=source.sha256,
        truths=truths,
        categories=categories,
        shared=len(source.descs) - len(categories),
        left_out=tuple(sorted(kind.name for kind in source.coco.categories if kind.id not in source.descs)),
        images_without_record=rest,
        images=frozenset(image.id for image in source.coco.images),
        descs=source.descs,
        unused=frozenset(kind.id for kind in source.coco.categories if kind.id not in source.descs),
    )


def _category_map(path: Path, jsonl: Path, digest: str) -> Mapping[str, str] | None:
    """The category map of the manifest beside the records; None without a map, and without a cook's manifest."""
    beside = jsonl.parent / MANIFEST_NAME
    try:
        manifest = read_json(beside)
        cooked_from, mapping = manifest["annotations_sha256"], manifest["options"]["category_map"]
    except (ContractFileError, LookupError, TypeError):
        # Whatever else is called manifest.json is not ours to judge.
        return None
    if cooked_from != digest:
        raise EvaluationError(
            f"--annotations {path}: {jsonl} was cooked from another file: {beside} says sha256 {cooked_from}, this "
            f"file has {digest}. Give the file that it was cooked from, or cook this one and evaluate on its records"
        )
    return mapping if isinstance(mapping, dict) else None


def _check_descs(records: Sequence[Record], descs: Mapping[Identifier, str], path: Path) -> None:
    known = set(descs.values())
    for record in records:
        strange = next((obj.desc for obj in record.objects if obj.desc not in known), None)
        if strange is not None:
            raise EvaluationError(
                f"{record.source}: desc {strange!r} is the name of no category of {path}, so answers could not be "
                "found there. Give the file that the records were cooked from, and keep the cook's "
                f"{MANIFEST_NAME}, which holds the category map, beside the records"
            )


def _image_ids(records: Sequence[Record], images: _Images, path: Path) -> list[tuple[Identifier, ...]]:
    """The ids of each record's image, or of the images that were merged into it; every one is in the file, once."""
    ids = [_own_ids(record) for record in records]
    nameless = [record.source for record, own in zip(records, ids, strict=True) if not own]
    if nameless:
        raise EvaluationError(
            f"{len(nameless)} of {len(records)} records name no image of {path}, first {nameless[0]}: "
            f"metadata.{ID_KEY} is missing, or neither an integer nor a text. Cook the records from that file, or "
            "write its image ids there"
        )
    strange = [
        (record.source, one) for record, own in zip(records, ids, strict=True) for one in own if one not in images
    ]
    if strange:
        raise EvaluationError(
            f"{len(strange)} image ids of the records are not in {path}, first {strange[0][1]!r} of {strange[0][0]}; "
            "give the file that the records were cooked from"
        )
    first: dict[Identifier, str] = {}
    for record, own in zip(records, ids, strict=True):
        for one in own:
            if one in first:
                raise EvaluationError(
                    f"{record.source}: is image id {one!r} of {path}, and so is {first[one]}; an image is answered "
                    "once: remove one of the two records"
                )
            first[one] = record.source
    return ids


def _own_ids(record: Record) -> tuple[Identifier, ...]:
    several = record.metadata.get(IDS_KEY)
    given: list[Any] = several if isinstance(several, list) and several else [record.metadata.get(ID_KEY)]
    sound = all(isinstance(one, int | str) and not isinstance(one, bool) for one in given)
    return tuple(given) if sound else ()


class _Images:
    """The images of a file with their annotations."""

    def __init__(self, coco: CocoFile, names: Names) -> None:
        self._names, self._descs = names, names.descs
        self._images: dict[Identifier, CocoImage] = {image.id: image for image in coco.images}
        self._rows: dict[Identifier, list[tuple[int, CocoAnnotation]]] = defaultdict(list)
        for place, annotation in enumerate(coco.annotations):
            if annotation.category_id in self._descs:
                self._rows[annotation.image_id].append((place, annotation))
        self._end = len(coco.annotations)
        self._federated = coco.federated

    def __contains__(self, number: object) -> bool:
        return number in self._images

    def truth(self, own: ImageTruth, ids: tuple[Identifier, ...]) -> ImageTruth:
        """What an answer is compared with: everything that the file has under `ids`. `own` has the size that was seen,
        and a record's name and split.
        """
        images = [self._images[number] for number in ids]
        rows = sorted((row for number in ids for row in self._rows[number]), key=lambda row: row[0])
        objects = [(place, a) for place, a in rows if not a.ignored]
        regions = [(place, a) for place, a in rows if a.ignored]
        whole = (0.0, 0.0, float(images[0].width), float(images[0].height))
        partly = self._names.partly_annotated(images)
        return replace(
            own,
            width=int(images[0].width),
            height=int(images[0].height),
            objects=tuple(Detection(self._descs[a.category_id], _corners(a.bbox)) for _, a in objects),
            ignore=(
                *(IgnoreRegion(self._descs[a.category_id], _corners(a.bbox)) for _, a in regions),
                *(IgnoreRegion(desc, whole) for desc in partly),
            ),
            verified_absent=frozenset(self._names.verified_absent(images)) if self._federated else None,
            annotated=FileImage(
                ids[0],
                (own.width, own.height),
                (
                    *(_row(place, a) for place, a in [*objects, *regions]),
                    *(FileRow(whole, whole[2] * whole[3], self._end) for _ in partly),
                ),
            ),
        )


def _row(place: int, annotation: CocoAnnotation) -> FileRow:
    area, (_, _, width, height) = annotation.area, annotation.bbox
    known = isinstance(area, int | float) and not isinstance(area, bool) and math.isfinite(area)
    return FileRow(annotation.bbox, float(area) if known else width * height, place)


def _corners(bbox: Box) -> Box:
    x, y, width, height = bbox
    return x, y, x + width, y + height
