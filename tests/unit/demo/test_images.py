"""The quick start's images: drawn once, kept when they are there, and the same whatever else is drawn."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from coordexp.data.shapes import SplitSpec
from coordexp.demo.images import HELDOUT, STAGE1_SPLITS, STAGE2_SPLITS, build_shapes, records_of

FEW = (SplitSpec("train", 3), SplitSpec("mixed", 4, "mixed"))


def draw(folder: Path, *splits: SplitSpec) -> str:
    """What is said while they are drawn."""
    page = StringIO()
    build_shapes(folder, splits, 65536, Console(file=page, width=200))
    return page.getvalue()


@pytest.mark.invariant("EVAL-031")
def test_what_is_there_is_kept_and_what_is_missing_is_drawn(tmp_path: Path) -> None:
    assert draw(tmp_path, FEW[0]).startswith("train: 3 records, ")
    records = records_of(tmp_path, FEW[0])
    records.write_text(records.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    told = draw(tmp_path, *FEW).splitlines()
    assert told[0] == f"train: kept {tmp_path / 'train'}" and told[1].startswith("mixed: 4 records, ")
    assert records.read_text(encoding="utf-8").endswith("\n\n"), "as it was left"


@pytest.mark.invariant("EVAL-031")
def test_a_split_is_the_same_whatever_is_drawn_beside_it(tmp_path: Path) -> None:
    draw(tmp_path / "both", *FEW)
    draw(tmp_path / "alone", FEW[1])
    texts = [records_of(tmp_path / name, FEW[1]).read_text(encoding="utf-8") for name in ("both", "alone")]
    assert texts[0] == texts[1]


def test_no_stage_trains_on_held_out_images() -> None:
    names = [split.name for split in (*STAGE1_SPLITS, *STAGE2_SPLITS)]
    assert len(set(names)) == len(names)
    assert [(split.name, split.kind) for split in HELDOUT.values()] == [
        ("heldout", "plain"),
        ("heldout_crowded", "crowded"),
    ]
