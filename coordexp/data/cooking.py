"""COCO-style annotations and images to coord JSONL, once and offline. Contract ids: DATA-009, DATA-010, DATA-011.

Leaves a folder with `records.jsonl`, `images/` (multiples of `factor`, at most `max_pixels`, never resized again) and
`manifest.json`, in which each dropped object and record is counted by reason, the first of them are named, and what
looks wrong is a warning. Same input, same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from coordexp.data.coco import load_coco
from coordexp.data.cooking_checks import (
    DROP_SHARE,
    check_anything_left,
    check_boxes,
    check_references,
    drop_warnings,
    left_out_by_map,
)
from coordexp.data.cooking_folders import advise_on_missing
from coordexp.data.cooking_images import cook_images
from coordexp.data.cooking_names import category_names
from coordexp.data.cooking_plan import Dish, Plan, check_options
from coordexp.data.errors import DataError
from coordexp.data.outputs import build_folder, check_free, write_json
from coordexp.data.records import check_line
from coordexp.spec import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from coordexp.data.cooking_types import CookOptions, CookSource, DropCounts

RECORDS_NAME = "records.jsonl"
MANIFEST_NAME = "manifest.json"
_NAMED = 3
"""Examples of each reason that an error names; the manifest has more."""


def cook(
    source: CookSource,
    out: Path,
    options: CookOptions,
    *,
    workers: int = 1,
    strict: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Cook `source` into the folder `out`, which must be free; return the manifest. Raises `DataError`.

    `on_image` is called once for each image. The number of workers changes no byte. `strict` raises for any warning,
    and then nothing is written.
    """
    check_options(options)
    _check_request(source, workers)
    check_free(out)
    coco, content = load_coco(source.annotations)
    names = category_names(coco, options.category_map, source.annotations)
    warnings = [*names.warnings, *check_references(coco), *check_boxes(coco, str(source.annotations))]
    _refuse_warnings(warnings, strict=strict)
    kept_descs: Counter[str] = Counter()
    digest = hashlib.sha256()
    with build_folder(out) as folder:
        plan = Plan(source, folder, options, names)
        dishes: list[Dish] = []
        for dish in plan.dishes(coco):
            if dish is None:
                on_image()
            else:
                dishes.append(dish)
        with open(folder / RECORDS_NAME, "wb") as stream:
            outcomes = cook_images([dish.job for dish in dishes], workers)
            for dish, outcome in zip(dishes, outcomes, strict=True):
                on_image()
                if outcome.written is None:
                    plan.counts.drop_record(str(outcome.reason), dish.cooked.found, dish.example(outcome.message))
                    continue
                line = _render_line(dish, outcome.written.relative_to(folder))
                check_line(line, f"{RECORDS_NAME}, image id {dish.metadata['image_id']}")
                stream.write(line)
                digest.update(line)
                digest.update(outcome.written.read_bytes())
                kept_descs.update(found["desc"] for found in dish.cooked.objects)
                plan.counts.keep_record(dish.cooked, outcome.adjustments)
        unmapped = left_out_by_map(coco, names.descs) if plan.counts.objects_dropped["unmapped_category"] else []
        warnings += _check_counts(plan.counts, source, options, [*unmapped, *warnings])
        _refuse_warnings(warnings, strict=strict)
        manifest = {
            "schema_version": 1,
            "annotations_sha256": hashlib.sha256(content).hexdigest(),
            "output_sha256": digest.hexdigest(),
            "options": options.as_json(),
            **plan.counts.as_json(source.images.resolve()),
            "descs": dict(sorted(kept_descs.items())),
            "warnings": warnings,
        }
        write_json(folder / MANIFEST_NAME, check("cook-manifest", manifest))
    return manifest


def _check_request(source: CookSource, workers: int) -> None:
    if workers < 1:
        raise DataError(f"--workers is {workers}; it is at least 1")
    if not source.images.is_dir():
        raise DataError(f"{source.images}: not a folder; --images names the folder that file_name starts from")


def _refuse_warnings(warnings: list[str], *, strict: bool) -> None:
    if warnings and strict:
        raise DataError("\n".join(f"--strict: {warning}" for warning in warnings))


def _check_counts(counts: DropCounts, source: CookSource, options: CookOptions, known: list[str]) -> list[str]:
    """Warnings on what was dropped; raises `DataError` when nothing is left, with the first of each reason."""
    missing = [example.file for example in counts.examples.get("missing_image", ())]
    advice = advise_on_missing(source.images, missing, source.annotations) if missing else None
    found = [f"images are missing under {source.images}: {advice}"] if advice else []
    try:
        check_anything_left(counts, options, str(source.annotations))
    except DataError as error:
        lines = [str(error), *_named_drops(counts), *found, *known]
        raise DataError("\n".join(lines)) from error
    many = counts.records_dropped["missing_image"] > DROP_SHARE * counts.records_input
    return [*drop_warnings(counts), *(found if many else ())]


def _named_drops(counts: DropCounts) -> list[str]:
    return [f"{reason}, {example}" for reason, examples in counts.examples.items() for example in examples[:_NAMED]]


def _render_line(dish: Dish, image: Path) -> bytes:
    record = {
        "images": [image.as_posix()],
        "width": dish.job.cooked[0],
        "height": dish.job.cooked[1],
        "objects": dish.cooked.objects,
        "metadata": dish.metadata,
    }
    return json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n"
