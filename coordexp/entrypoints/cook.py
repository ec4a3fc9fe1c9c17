"""Cook COCO-style annotations and images into coord JSONL: python -m coordexp.entrypoints.cook --help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Command line of `cook`."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.cook", description=__doc__)
    parser.add_argument("--annotations", type=Path, required=True, help="COCO-style annotation file (JSON)")
    parser.add_argument("--images", type=Path, required=True, help="folder that file_name starts from")
    parser.add_argument(
        "--out", type=Path, required=True, help="new folder for records.jsonl, images/ and manifest.json"
    )
    parser.add_argument("--max-pixels", type=int, required=True, help="cap on width x height, as template.max_pixels")
    parser.add_argument("--factor", type=int, default=32, help="sizes are multiples of it (default 32)")
    parser.add_argument("--max-objects", type=int, help="drop (and count) records with more objects")
    parser.add_argument(
        "--category-map", type=Path, help="JSON object: COCO category name to desc; others are dropped and counted"
    )
    parser.add_argument(
        "--geometry", choices=("bbox_2d", "poly"), default="bbox_2d", help="poly: single polygons, else boxes"
    )
    parser.add_argument("--drop-empty", action="store_true", help="drop (and count) records without objects")
    parser.add_argument(
        "--exif",
        choices=("apply", "ignore"),
        help="turn, or leave as stored, images whose EXIF orientation their size does not decide (default: refuse)",
    )
    parser.add_argument(
        "--background", action="store_true", help="the images are backgrounds: records without one object are meant"
    )
    parser.add_argument("--strict", action="store_true", help="a warning is an error, and nothing is written")
    parser.add_argument("--workers", type=int, default=1, help="processes; changes no byte of the output")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; 0 on success, 1 with a line on stderr for bad input."""
    args = build_parser().parse_args(argv)
    from coordexp.artifacts.folders import FolderError, check_writable
    from coordexp.data.cooking import cook
    from coordexp.data.cooking_names import load_category_map
    from coordexp.data.cooking_types import CookOptions, CookSource
    from coordexp.data.errors import DataError
    from coordexp.data.reports import named_drops, progress, render_manifest

    try:
        check_writable(args.out)
        mapping = load_category_map(args.category_map) if args.category_map else None
        options = CookOptions(
            args.max_pixels,
            args.factor,
            args.max_objects,
            mapping,
            args.geometry,
            not args.drop_empty,
            args.exif,
            args.background,
        )
        with progress("cooking", "images") as advance:
            source = CookSource(args.annotations, args.images)
            manifest = cook(source, args.out, options, workers=args.workers, strict=args.strict, on_image=advance)
    except (DataError, FolderError) as error:
        sys.stderr.write(f"cook: {error}\n")
        return 1
    sys.stdout.write(render_manifest(manifest) + "\n")
    for line in (*named_drops(manifest), *(f"warning: {warning}" for warning in manifest["warnings"])):
        sys.stderr.write(f"cook: {line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
