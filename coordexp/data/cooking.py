"""COCO-style annotations and images to coord JSONL, once and offline. Contract ids: DATA-009, DATA-010, DATA-011.

Leaves a folder with `records.jsonl`, `images/` (multiples of `factor`, at most `max_pixels`, never resized again) and
`manifest.json`, in which each dropped object and record is counted by reason. Same input, same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from coordexp.data.coco import load_coco
from coordexp.data.cooking_images import cook_images
from coordexp.data.cooking_plan import Dish, Plan, category_descs, check_options
from coordexp.data.errors import DataError
from coordexp.data.outputs import build_folder, write_json
from coordexp.data.records import check_line
from coordexp.spec import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from coordexp.data.cooking_types import CookOptions, CookSource

RECORDS_NAME = "records.jsonl"
MANIFEST_NAME = "manifest.json"


def cook(
    source: CookSource,
    out: Path,
    options: CookOptions,
    *,
    workers: int = 1,
    on_image: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Cook `source` into the folder `out`, which must be free; return the manifest. Raises `DataError`.

    `on_image` is called once for each image. The number of workers changes no byte.
    """
    check_options(options)
    coco, content = load_coco(source.annotations)
    descs = category_descs(coco, options, source.annotations)
    if not source.images.is_dir():
        raise DataError(f"{source.images}: not a folder; --images names the folder that file_name starts from")
    kept_descs: Counter[str] = Counter()
    digest = hashlib.sha256()
    with build_folder(out) as folder:
        plan = Plan(source, folder, options, descs)
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
                    plan.drop(str(outcome.reason), len(dish.objects))
                    continue
                line = _render_line(dish, outcome.written.relative_to(folder))
                check_line(line, f"{RECORDS_NAME}, image id {dish.image_id}")
                stream.write(line)
                digest.update(line)
                digest.update(outcome.written.read_bytes())
                kept_descs.update(found["desc"] for found in dish.objects)
                plan.counts.keep_record(len(dish.objects), outcome.adjustments)
        if not plan.counts.records_kept:
            dropped = {reason: count for reason, count in plan.counts.records_dropped.items() if count}
            raise DataError(f"{source.annotations}: no record is left to write; dropped: {dropped or 'none'}")
        manifest = {
            "schema_version": 1,
            "annotations_sha256": hashlib.sha256(content).hexdigest(),
            "output_sha256": digest.hexdigest(),
            "options": options.as_json(),
            **plan.counts.as_json(),
            "descs": dict(sorted(kept_descs.items())),
        }
        write_json(folder / MANIFEST_NAME, check("cook-manifest", manifest))
    return manifest


def _render_line(dish: Dish, image: Path) -> bytes:
    record = {
        "images": [image.as_posix()],
        "width": dish.job.cooked[0],
        "height": dish.job.cooked[1],
        "objects": dish.objects,
        "metadata": {"image_id": dish.image_id},
    }
    return json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n"
