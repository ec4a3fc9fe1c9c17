"""The quick start's images: a folder and splits in; drawn and cooked `<folder>/<split>/records.jsonl` out. EVAL-031."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from coordexp.config import Config, resolve_output
from coordexp.data.cooking import RECORDS_NAME, cook
from coordexp.data.cooking_types import CookOptions, CookSource
from coordexp.data.reports import progress
from coordexp.data.shapes import SplitSpec, write_splits

PLAIN, CROWDED = "plain", "crowded"
HELDOUT = {PLAIN: SplitSpec("heldout", 100), CROWDED: SplitSpec("heldout_crowded", 100, "crowded")}
"""Images that no stage trains on, by what they are."""
STAGE1_SPLITS = (SplitSpec("train", 3000), SplitSpec("val", 40), HELDOUT[PLAIN])
STAGE2_SPLITS = (SplitSpec("mixed", 3200, "mixed"), HELDOUT[CROWDED])
DATA_SEED = 20261121


def data_folder(config: Config) -> Path:
    """The folder of the splits: two above `custom.train_jsonl`, which need not exist yet."""
    return resolve_output(config, str(Path(config.custom.train_jsonl).parent.parent))


def records_of(folder: Path, split: SplitSpec) -> Path:
    """The records of a cooked split."""
    return folder / split.name / RECORDS_NAME


def build_shapes(folder: Path, splits: Sequence[SplitSpec], max_pixels: int, console: Console) -> None:
    """Draw and cook the splits that are not there yet; a finished split is kept as it is."""
    for split in splits:
        cooked = folder / split.name
        if cooked.exists():
            console.print(f"{split.name}: kept {cooked}", soft_wrap=True, highlight=False)
            continue
        raw = folder / "raw" / split.name
        if not raw.exists():
            with progress(f"drawing {split.name}", "images", split.count) as advance:
                write_splits(raw, [split], DATA_SEED, on_image=advance)
        drawn = raw / split.name
        with progress(f"cooking {split.name}", "images", split.count) as advance:
            manifest = cook(
                CookSource(drawn / "annotations.json", drawn), cooked, CookOptions(max_pixels), on_image=advance
            )
        kept = f"{manifest['records']['kept']} records, {manifest['objects']['kept']} objects"
        console.print(f"{split.name}: {kept}", highlight=False)
