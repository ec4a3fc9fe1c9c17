"""Shows one record as the model will read it: rendered text, token ids, types and labels, coloured by type."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.encode.inspection import Inspection

COLOURS = {"other": "dim", "struct": "cyan", "desc": "green", "coord": "yellow", "eos": "bold magenta"}


def build_parser() -> argparse.ArgumentParser:
    """Arguments; the defaults show desc_first with the real vocabulary."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.inspect_chat_template", description=__doc__)
    parser.add_argument("jsonl", type=Path, help="records, one a line")
    parser.add_argument("--line", type=int, default=1, help="which record, counted from 1 (default: %(default)s)")
    parser.add_argument("--config", type=Path, help="take orders, prompt and caps from this config, not from the flags")
    parser.add_argument(
        "--checkpoint", type=Path, help="take tokenizer and processor from here, not the real vocabulary"
    )
    parser.add_argument("--image-root", type=Path, help="folder of the image paths (default: the records' own)")
    parser.add_argument("--field-order", choices=["desc_first", "geometry_first"], default="desc_first")
    parser.add_argument(
        "--ordering", choices=["sorted", "random"], default="sorted", help="what the prompt says of the order"
    )
    parser.add_argument("--variant", choices=["default", "coco_80"], default="default", help="wording of the prompt")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of colours")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0 when the record was shown, 1 with one line on stderr when it cannot be encoded."""
    args = build_parser().parse_args(argv)
    from coordexp.config import ConfigError, load_config
    from coordexp.data.records import iter_records
    from coordexp.encode.encoder import build_encoder
    from coordexp.encode.inspection import inspect_sample, render_inspection
    from coordexp.encode.processor import build_processor, load_processor
    from coordexp.encode.settings import EncodeSettings
    from coordexp.encode.vocabulary import build_real_tokenizer

    try:
        wanted = EncodeSettings(args.field_order, args.ordering, args.variant, max_length=1 << 20)
        settings = load_config(args.config) if args.config else wanted
        record = next((found for number, found in enumerate(iter_records(args.jsonl), 1) if number == args.line), None)
        if record is None:
            raise ValueError(f"{args.jsonl}: there is no line {args.line}")
        processor = load_processor(args.checkpoint) if args.checkpoint else build_processor(build_real_tokenizer())
        encoder = build_encoder(processor, settings)
        found = inspect_sample(encoder, encoder.encode(record, args.image_root))
    except (ValueError, OSError, ConfigError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if args.json:
        sys.stdout.write(json.dumps(render_inspection(found), ensure_ascii=False) + "\n")
    else:
        show(found)
    return 0


def show(found: Inspection) -> None:
    """Text first, then a table with a row per token."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(markup=False, emoji=False)
    console.print(Text.assemble(*((row.text, COLOURS[row.type]) for row in found.rows)), soft_wrap=True)
    table = Table("position", "id", "token", "type", "label", title=Text(f"{found.sample_id}: {found.length} tokens"))
    for row in found.rows:
        times = f" x{row.count}" if row.count > 1 else ""
        label = str(row.token_id) if row.supervised else ""
        cells = (str(row.position), str(row.token_id), repr(row.text) + times, row.type, label)
        table.add_row(*(Text(cell, COLOURS[row.type]) for cell in cells))
    console.print(table)
    console.print(f"{found.supervised} supervised tokens")


if __name__ == "__main__":
    sys.exit(main())
