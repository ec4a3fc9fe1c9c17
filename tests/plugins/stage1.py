"""A stage-1 run in miniature: cooked shapes, an untrained checkpoint, and configs that name them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

SHIPPED = Path(__file__).resolve().parents[2] / "configs/stage1/smoke/shapes.yaml"


@dataclass(frozen=True)
class Stage1Kit:
    """Folders of the miniature, and how to write a config for it."""

    checkpoint: Path
    train: Path
    val: Path
    root: Path

    def write(self, name: str, row: int = 512, **sections: dict[str, Any]) -> Path:
        """A config that extends the shipped one, with rows of `row` tokens; keyword arguments override its sections.

        Returns the YAML file.
        """
        folder = self.root / name
        folder.mkdir()
        base: dict[str, dict[str, Any]] = {
            "model": {"model": str(self.checkpoint)},
            "training": {
                "output_dir": str(folder / "run"),
                "logging_dir": str(folder / "tb"),
                "run_name": name,
                "max_steps": 2,
                "logging_steps": 1,
                "save_strategy": "no",
                "learning_rate": 1e-3,
                "effective_batch_size": 2,
            },
            "custom": {"train_jsonl": str(self.train), "val_jsonl": str(self.val)},
        }
        merged = {key: base.get(key, {}) | sections.get(key, {}) for key in base | sections}
        document = {"extends": str(SHIPPED), "global_max_length": row, **merged}
        (folder / "config.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        return folder / "config.yaml"

    def coord_range(self) -> tuple[int, int]:
        """First and last coord id of the checkpoint's vocabulary."""
        from coordexp.coords.vocab import build_coord_vocab
        from coordexp.encode.processor import load_processor

        ids = build_coord_vocab(load_processor(self.checkpoint).tokenizer).ids
        return ids[0], ids[-1]


@pytest.fixture(scope="session")
def stage1_kit(tmp_path_factory: pytest.TempPathFactory) -> Stage1Kit:
    """14 training and 3 validation images, cooked; a checkpoint of the smallest sizes with the cut vocabulary."""
    from coordexp.data.cooking import RECORDS_NAME, cook
    from coordexp.data.cooking_types import CookOptions, CookSource
    from coordexp.data.shapes import SplitSpec, write_splits
    from coordexp.forward.tiny import SMALLEST, write_tiny_checkpoint

    root = tmp_path_factory.mktemp("stage1")
    write_splits(root / "raw", [SplitSpec("train", 14), SplitSpec("val", 3)], 3)
    for name in ("train", "val"):
        source = CookSource(root / "raw" / name / "annotations.json", root / "raw" / name)
        cook(source, root / name, CookOptions(65536))
    write_tiny_checkpoint(root / "checkpoint", SMALLEST)
    return Stage1Kit(root / "checkpoint", root / "train" / RECORDS_NAME, root / "val" / RECORDS_NAME, root)
